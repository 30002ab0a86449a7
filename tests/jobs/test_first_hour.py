"""What people get wrong in their first hour: each is a line with the mend, which works when it is typed."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from tests.drawings import draw_galaxy, write_labeled_shard

LABELS = {
    "good.csv": ["id,class", "{},SPI"],
    "semicolons.csv": ["id;class", "{};SPI"],
    "endings.csv": ["id,class", "{}.JPG,SPI"],
    "headless.csv": ["{},SPI"],
    "almost.csv": ["ID,Class", "{},SPI"],
    "lower.csv": ["id,class", "{},spi"],
    "own.csv": ["id,class", "{},barred"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, labels, shards, and what is almost one of these; it is the current one."""
    (tmp_path / "images").mkdir()
    (tmp_path / "empty").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(draw_galaxy("SPI", number, size=32))
    for name, (*header, row) in LABELS.items():
        (tmp_path / name).write_text("\n".join([*header, *(row.format(number) for number in range(4))]))
    table = pq.read_table(write_labeled_shard(tmp_path / "shard.parquet", {"CRS": 2}))
    pq.write_table(
        table.rename_columns(["objid", "ra", "dec", "Image", "pixel_scale", "label"]), "almost.parquet"
    ) if monkeypatch.chdir(tmp_path) is None else None
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ingest images out --labels headless.csv", "'0,SPI', which looks like an object"),
        ("ingest images out --labels almost.csv", "did you mean 'ID'? --labels-id-column ID"),
        ("ingest images out --labels lower.csv", "did you mean 'SPI'?; rename it with --map OLD=NEW"),
        ("ingest images out --labels own.csv", "name classes of your own (`hiwl taxonomy new`, --taxonomy)"),
        ("ingest image out", "no file or folder 'image'"),
        ("ingest empty out", "no image in"),
        ("classify galaxyzoo almost.parquet out", "did you mean 'objid'? --id-column objid"),
        (
            "classify galaxyzoo almost.parquet out --id-column objid",
            "did you mean 'Image'? --image-column Image",
        ),
        ("classify galaxyzoo images out", "only others such as '0.jpg'"),
        ("classify galaxyzoo shard.parquet out --carry labels", "did you mean 'label'?"),
        ("classify galaxy_zoo shard.parquet out", "in the box: galaxyzoo"),
        ("clasify galaxyzoo shard.parquet out", "no verb 'clasify': did you mean 'classify'?"),
        ("train --data a --val b --recipe demo --out run --set stage1.epoch=3", "did you mean 'epochs'?"),
        ("train --data a --val b --recipe dmeo --out run", "did you mean 'demo'?"),
        ("train --data a --val b --recipe demo --method hiwll --out run", "did you mean 'hiwl'?"),
        ("train --data a --val b --recipe demo --taxonomy bars.toml --out run", "`hiwl taxonomy new LABELS`"),
        ("train --data shards.parquet --val b --recipe demo --out run", "did you mean 'shard.parquet'?"),
        ("ingest images out --labels god.csv", "did you mean 'good.csv'?"),
        ("ingest images out --class-folders", "as in"),
        ("ingest images out --split 8:1:1", "give a table with --labels"),
        ("ingest images out --labels good.csv --split 8:1:x", "write shares such as 8:1:1"),
        ("ingest images out --labels good.csv --group-by plate", "give --split 8:1:1 too"),
        ("ingest images out --labels good.csv --split 8:2 --group-by plate", "it has id, class, and sky"),
        ("classify galaxyzoo 'shrd*.parquet' out", "no .parquet or .tar"),
        ("classify shard.parquet galaxyzoo out", "no model bundle at 'shard.parquet'"),
        ("classify galaxyzoo shard.parquet shard.parquet", "choose another folder"),
        ("classify galaxyzoo shard.parquet out --scale-factor 0.02", "name its column with --scale-column"),
        ("classify galaxyzoo shard.parquet out --deadline 6", "a time such as 06:00"),
        (
            "evaluate galaxyzoo almost.parquet --id-column objid --image-column Image --label-column lable",
            "did you mean 'label'?",
        ),
        ("query images", "give the folder that `hiwl classify` wrote"),
        ("taxonomy new good.csv --out good.csv", "is there already: choose another file"),
    ],
)
def test_it_is_one_line_and_exit_code_2(command: str, expected: str) -> None:
    result = run(*command.split())
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert expected in line
    assert "Traceback" not in result.stderr
    assert not Path("out").exists()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "options",
    [
        "--labels good.csv",
        "--labels semicolons.csv",
        "--labels endings.csv",
        "--labels almost.csv --labels-id-column ID --labels-class-column Class",
        "--labels lower.csv --map spi=SPI",
        "--labels own.csv --map barred=SPI",
    ],
)
def test_the_mend_works(options: str) -> None:
    result = run("ingest", "images", "out", *options.split())
    assert result.exit_code == 0, result.output
    (shard,) = Path("out").glob("*.parquet")
    assert pq.read_table(shard, columns=["object_id", "label"]).to_pydict() == {
        "object_id": [0, 1, 2, 3],
        "label": ["SPI"] * 4,
    }
