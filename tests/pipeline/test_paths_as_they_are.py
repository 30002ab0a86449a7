"""Folders and files as people name and link them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.ingestion.source import Listing, check_source
from pipeline.publication.publication_folder import list_inputs
from pipeline.querying.files import find_catalog
from pipeline.shards.cutout_shards import Columns, list_shards, read_columns
from pipeline.storage.listing import is_pattern

PART = {"object_id": [1, 2], "ra": [1.0, 2.0], "dec": [1.0, 2.0], "status": ["ok"] * 2, "model_id": ["m"] * 2}


@pytest.mark.parametrize("name", ["cat [v2]", "run[0]", "what?", "a*b"])
def test_a_name_that_is_there_is_no_pattern(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for number in range(2):
        pq.write_table(pa.table(PART), folder / f"part[{number}].parquet")
    pq.write_table(pa.table(PART), tmp_path / "other.parquet")
    # What the name would mean as a pattern.
    for other in ("cat v", "run0", "whats", "axxb"):
        (tmp_path / other).mkdir()
        pq.write_table(pa.table(PART), tmp_path / other / "part.parquet")
    inside = [str(folder / f"part[{number}].parquet") for number in range(2)]
    assert list_shards(str(folder)) == inside
    assert list_shards(f"{folder}/*.parquet") == inside
    assert list_shards(inside[0]) == inside[:1]
    assert sum(read_columns(shard, Columns(), ["object_id"]).num_rows for shard in inside) == 4
    assert find_catalog(str(folder)).paths == inside
    assert [entry.path for entry in list_inputs(str(folder))] == inside
    listing = Listing(check_source(str(folder), str(tmp_path / "out")), str(tmp_path / "out"))
    assert (list(listing.iter_images()), listing.tables) == ([], inside)


def test_patterns_are_still_patterns(tmp_path: Path) -> None:
    for name in ("a1", "a2", "b1"):
        (tmp_path / f"{name}.parquet").write_bytes(b"x")
    assert [path[-10:] for path in list_shards(f"{tmp_path}/a[12].parquet")] == ["a1.parquet", "a2.parquet"]
    assert is_pattern(f"{tmp_path}/a?.parquet")
    with pytest.raises(UserError, match="check the path"):
        list_shards(f"{tmp_path}/c[12].parquet")


def test_links_to_their_own_folder_are_not_followed_and_others_are(tmp_path: Path) -> None:
    for name in ("cutouts/a", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "shard.parquet").write_bytes(b"x")
    root = tmp_path / "cutouts"
    (root / "loop").symlink_to(root)
    (root / "a" / "up").symlink_to("..")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    found = [path.removeprefix(f"{root}/") for path, _ in storage.list_files(str(root))]
    assert found == ["a/shard.parquet", "linked/shard.parquet"]
