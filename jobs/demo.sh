#!/bin/sh
# The main job from nothing to a catalog, on simulated galaxies; `make demo` runs it.
set -eu
BIN=${BIN:-.venv/bin}
OUT=${OUT:-.demo}

step() { printf '\n== %s\n' "$*"; "$@"; }

# Without this, a second demo would only say that all is done. Another folder's content is left alone.
if [ -e "$OUT" ] && [ ! -e "$OUT/sky/_simulation.json" ]; then
    echo "$OUT exists and is no demo's: remove it, or set OUT" >&2
    exit 2
fi
rm -rf "$OUT"
step "$BIN/hiwl" simulate "$OUT/sky" --count 2200 --seed 1
step "$BIN/hiwl" select "$OUT/sky/votes.csv" "$OUT/classes.csv"
step "$BIN/hiwl" ingest "$OUT/sky/cutouts" "$OUT/data" --labels "$OUT/classes.csv"
step "$BIN/hiwl" train --data "$OUT/data/train-*.parquet" --val "$OUT/data/val-*.parquet" \
    --recipe demo --out "$OUT/run"
step "$BIN/hiwl" classify "$OUT/run/bundle" "$OUT/sky/cutouts" "$OUT/catalog" --carry truth
step "$BIN/hiwl" evaluate "$OUT/run/bundle" "$OUT/data/test-*.parquet" --out "$OUT/evaluation"
step "$BIN/hiwl" report "$OUT/run" --out "$OUT/report" --val "$OUT/data/test-*.parquet"
step "$BIN/hiwl" verify "$OUT/catalog"
step "$BIN/hiwl" models
step "$BIN/hiwl" classify galaxyzoo "$OUT/sky/cutouts" "$OUT/in_the_box" --carry truth
step "$BIN/hiwl" fractions "$OUT/in_the_box" --out "$OUT/fractions.csv"
step "$BIN/hiwl" sample "$OUT/catalog" "$OUT/unsure.html" --order confidence --count 60
step "$BIN/hiwl" query "$OUT/catalog" "SELECT label, count(*) AS galaxies, avg(confidence) FROM catalog GROUP BY label"
step "$BIN/hiwl" query "$OUT/catalog" "SELECT object_id, ra, dec, label, confidence FROM catalog" --cone 180,30,3

cat <<END

The catalog is in $OUT/catalog; ask it more with

  $BIN/hiwl query $OUT/catalog "SELECT object_id, ra, dec, confidence FROM catalog WHERE p_css > 0.5 LIMIT 5"

The model in the box, which never saw a simulated galaxy, has made $OUT/in_the_box.

To look at: $OUT/report/report.html has all of the training and its scores, $OUT/unsure.html the galaxies of which
the catalog is least sure.
END
