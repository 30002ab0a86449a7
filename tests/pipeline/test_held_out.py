"""`hiwl train --val 0.2`: a share of each class is held out of the shards to train on, and stays so."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from hiwl_core.errors import UserError
from hiwl_core.taxonomy import GALAXY_ZOO
from jobs.cli import main
from pipeline.evaluation.evaluate import evaluate
from pipeline.shards.cutout_shards import Columns, list_shards, read_columns
from pipeline.training.held_out import HeldOut, galaxies_of
from pipeline.training.labeled_shards import LabeledShards, check_labeled
from tests.conftest import TINY, TinyData

SETTINGS = [
    *TINY,
    *(f"{stage}.{key}" for stage in ("stage1", "stage2") for key in ("epochs=1", "batch_size=32")),
    "finish=calibration",
]


def shards_with_groups(folder: Path) -> LabeledShards:
    """Two shards of 60 rows: each second galaxy is on a plate with nine others, one has no label."""
    for part in range(2):
        ids = range(60 * part, 60 * part + 60)
        labels = [None if row == 5 else ("SPI", "EO", "CRS")[row % 3] for row in ids]
        rows = {
            "name": [f"J{row // 2}" if row > 100 else f"J{row + 1000}" for row in ids],
            "image": [b"\xff\xd8\xff"] * 60,
            "label": labels,
            "plate": [row // 20 if row % 2 else None for row in ids],
        }
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.table(rows), folder / f"{part}.parquet")
    return check_labeled(list_shards(str(folder)), Columns(id="name"), GALAXY_ZOO)


def test_each_class_gives_its_share_and_no_galaxy_and_no_group_is_on_two_sides(tmp_path: Path) -> None:
    labeled = shards_with_groups(tmp_path)
    train, val = HeldOut("0.25", seed=0).apart(labeled)
    assert (train.galaxies, val.galaxies) == (119 - val.galaxies, sum(val.class_counts.values()))
    for name in ("SPI", "EO", "CRS"):
        assert val.class_counts[name] == pytest.approx(10, abs=1)
        assert val.class_counts[name] + train.class_counts[name] == labeled.class_counts[name]
    # From 101 on two rows have each id.
    names = [set(galaxies_of(part)["object_id"].to_pylist()) for part in (train, val)]
    assert not names[0] & names[1]
    assert not (train.mask & val.mask).any()
    assert not np.array_equal(HeldOut("0.25", seed=1).apart(labeled)[1].mask, val.mask)

    grouped = HeldOut("0.25", 0, "plate").apart(labeled)[1]
    plates = np.concatenate([read_columns(s, Columns(), [], ["plate"])["plate"] for s in labeled.shards])
    there = pd.Series(plates).groupby(plates).size()
    held = pd.Series(plates[grouped.mask]).dropna()
    assert len(held)
    # The row without a label is on plate 0, and on no side.
    assert all(
        count in (there[plate], there[plate] - 1) for plate, count in held.groupby(held).size().items()
    )
    with pytest.raises(UserError, match=r"--group-by plat: no such column in .*did you mean 'plate'\?"):
        HeldOut("0.25", 0, "plat").apart(labeled)
    with pytest.raises(UserError, match=r"--val 0\.001: the 119 labeled galaxies of .* are too few"):
        HeldOut("0.001", 0).apart(labeled)


@pytest.mark.parametrize("val", ["1", "0", "-0.1", "10", "nan"])
def test_a_number_that_is_no_share_is_a_mistake(val: str) -> None:
    with pytest.raises(UserError, match=rf"--val {val}: hold out a share between 0 and 1"):
        HeldOut.parse(val, 0)


def test_shards_have_no_group() -> None:
    assert HeldOut.parse("val/*.parquet", 0) is None
    with pytest.raises(UserError, match="--group-by field: that is for a share"):
        HeldOut.parse("val/*.parquet", 0, "field")


@pytest.mark.slow
def test_train_holds_out_and_resume_and_evaluate_know_it(
    ray_session: None, tiny_data: TinyData, tmp_path: Path
) -> None:
    def hiwl(*words: str, code: int = 0) -> tuple[str, str]:
        answer = CliRunner().invoke(main, words)
        assert answer.exit_code == code, answer.stderr
        return answer.stdout, answer.stderr

    run = str(tmp_path / "run")
    settings = [word for key in SETTINGS for word in ("--set", key)]
    train = ["train", "--data", tiny_data.train, "--recipe", "demo", *settings, "--out", run]
    tracker = ["--track", "tensorboard"] if find_spec("tensorboard") else []
    printed, said = hiwl(*train, "--val", "0.2", *tracker)
    assert len(list(Path(run).glob("tensorboard/events.*"))) == len(tracker) // 2
    held = pd.read_csv(f"{run}/held_out.csv")
    assert held["label"].value_counts().to_dict() == {"CRS": 7, "IBS": 7, "SPI": 6, "EO": 5, "CSS": 2}
    assert "held out of --data, to select by: 27 galaxies (CRS 7, IBS 7, CSS 2, EO 5, SPI 6)" in said
    assert "train: 113 galaxies in 2 shards" in said
    assert f"next: hiwl evaluate {run}/bundle '{tiny_data.train}'" in printed
    provenance = json.loads(Path(run, "bundle", "bundle.json").read_text())["provenance"]
    assert provenance["class_counts"] == {"CRS": 29, "IBS": 29, "CSS": 10, "EO": 19, "SPI": 26}
    assert "this run is complete" in hiwl(*train, "--val", "0.2")[0]
    assert (
        "holds a run with another held_out.--val ('0.2', now '0.3')"
        in hiwl(*train, "--val", "0.3", code=2)[1]
    )

    scores = str(tmp_path / "scores")
    printed, said = hiwl("evaluate", f"{run}/bundle", tiny_data.train, "--out", scores)
    assert "scored are the 27 galaxies that the training held out (0.2 of these)" in said
    assert "not in any figure, learned from: 113" in printed
    assert "The calibration was fitted on these shards. So that no figure is of galaxies" in printed
    again = evaluate(f"{run}/bundle", tiny_data.train, scores)
    assert again.scored == {"CRS": 7, "IBS": 7, "CSS": 2, "EO": 5, "SPI": 6}
    assert set(again.galaxies["object_id"]) == set(held["object_id"].astype(str))
    one = hiwl("evaluate", f"{run}/bundle", list_shards(tiny_data.train)[0], "--out", str(tmp_path / "one"))
    assert "warning: the model learned from 1 of these 1 shards" in one[1]
    assert "give all of them to have the part scored that was held out" in one[1]
