"""Datasets in hand, classified without a catalog."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import ray

from hiwl_core.errors import UserError
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.classify import classify
from pipeline.classification.classify_dataset import classify_dataset
from pipeline.shards.shards_datasource import ShardsDatasource
from tests.drawings import CLASSES, write_labeled_shard


def frame(dataset: ray.data.Dataset) -> pd.DataFrame:
    found = pa.concat_tables(dataset.iter_batches(batch_size=None, batch_format="pyarrow")).to_pandas()
    return found.sort_values("object_id", ignore_index=True)


@pytest.mark.usefixtures("ray_session")
def test_a_dataset_has_the_labels_that_a_catalog_of_it_has(random_model: str, tmp_path: Path) -> None:
    write_labeled_shard(tmp_path / "sky" / "a.parquet", dict.fromkeys(CLASSES, 4))
    classify(
        random_model,
        str(tmp_path / "sky"),
        str(tmp_path / "catalog"),
        contents=CatalogContents(carry=["pixel_scale"]),
    )
    catalog = pd.read_parquet(tmp_path / "catalog" / "a.parquet")
    cutouts = ray.data.read_datasource(ShardsDatasource(str(tmp_path / "sky")))
    # Named twice, it is one column all the same.
    contents = CatalogContents(carry=["pixel_scale", "pixel_scale"])
    found = frame(classify_dataset(random_model, cutouts, contents=contents))
    # Not bit by bit: the networks' last digits depend on how many threads they were granted.
    pd.testing.assert_frame_equal(found, catalog, rtol=1e-4, atol=1e-5)

    images = cutouts.select_columns(["image"])
    alone = frame(classify_dataset(random_model, images))
    assert sorted(alone["label"]) == sorted(catalog["label"])
    assert alone["object_id"].isna().all()
    with pytest.raises(UserError, match="--carry label: that name is taken"):
        classify_dataset(random_model, cutouts, contents=CatalogContents(carry=["label"]))
    with pytest.raises(UserError, match="prior"):
        classify_dataset(random_model, cutouts, contents=CatalogContents(prior="estimate"))
