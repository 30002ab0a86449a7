import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiwl_core.errors import UserError
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.taxonomy import GALAXY_ZOO
from pipeline.shards.cutout_shards import Columns
from pipeline.shards.labeled_sample import LabeledSample, TrainedOn, sample_labeled
from pipeline.training.cutout_store import load_cutouts
from pipeline.training.labeled_shards import check_labeled
from tests.drawings import CLASSES, SIZE, write_labeled_shard


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two shards, the first of several row groups, with one broken cutout and one without a label."""
    folder = tmp_path_factory.mktemp("sample")
    first = write_labeled_shard(folder / "a.parquet", {"CRS": 200, "IBS": 200, "CSS": 4, "SPI": 150})
    rows = pq.read_table(first).to_pandas()
    broken, unlabeled = rows[rows["label"] == "CSS"].index[0], rows[rows["label"] == "CRS"].index[0]
    rows.loc[broken, "image"] = b"broken"
    rows.loc[unlabeled, "label"] = None
    schema = pq.read_schema(first).remove_metadata()
    pq.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False), first, row_group_size=256)
    second = write_labeled_shard(folder / "b.parquet", {"EO": 30, "CSS": 3}, first_id=5000)
    return [str(first), str(second)]


def drawn(shards: list[str], seed: int = 0, smallest: int = SIZE, **how: Any) -> LabeledSample:
    return sample_labeled(shards, Columns(), GALAXY_ZOO, smallest, RgbSettings(), seed, **how)


def test_all_galaxies_that_can_be_read_come_with_their_own_labels(shards: list[str]) -> None:
    everything = drawn(shards)
    assert len(everything.images) == 554 - 2 + 33
    tables = pd.concat([pq.read_table(shard).to_pandas() for shard in shards])
    by_id = tables.set_index(tables["object_id"].astype(str))
    for identifier, image, index in zip(
        everything.ids, everything.images, everything.class_indices, strict=True
    ):
        assert by_id.loc[identifier, "label"] == CLASSES[index]
        assert by_id.loc[identifier, "image"] == image


def test_so_many_of_each_class_or_in_all(shards: list[str]) -> None:
    few = drawn(shards, per_class=5)
    counts = np.bincount(few.class_indices, minlength=5)
    # Of the seven cigars one cannot be read, and may be among the five.
    assert counts[[0, 1, 3, 4]].tolist() == [5, 5, 5, 5]
    assert counts[2] in (4, 5)
    assert few.ids == drawn(shards, per_class=5).ids
    assert few.ids != drawn(shards, per_class=5, seed=1).ids
    some = drawn(shards, count=40)
    assert 39 <= len(some.ids) == len(set(some.ids)) <= 40


@pytest.mark.usefixtures("ray_session")
def test_what_a_training_took_is_what_it_took(shards: list[str]) -> None:
    store = load_cutouts(check_labeled(shards, Columns(), GALAXY_ZOO), GALAXY_ZOO, SIZE)
    taken = store.sampled(60, seed=3)
    of_training = drawn(shards, seed=3, trained_on=TrainedOn(60, SIZE))
    assert of_training.images == taken.images(taken.rows)
    assert of_training.class_indices.tolist() == taken.class_indices.tolist()
    few = drawn(shards, seed=3, count=20, trained_on=TrainedOn(60, SIZE))
    assert len(few.ids) == 20
    assert set(few.ids) < set(of_training.ids)


def test_without_a_readable_cutout_it_is_a_mistake(shards: list[str]) -> None:
    with pytest.raises(UserError, match="no readable cutout of 500 px or more with a label in"):
        drawn(shards, smallest=500)


def test_who_reads_for_a_training_does_not_load_the_networks() -> None:
    # PyTorch takes a second and 200 MB, in each process that reads.
    code = "import sys, pipeline.training.cutout_store; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
