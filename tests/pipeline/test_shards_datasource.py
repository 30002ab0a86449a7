"""Groups of shards, and their rows as a source of Ray Data."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from hiwl_core.errors import UserError
from pipeline.shards import shard_groups
from pipeline.shards.cutout_shards import MAX_SHARD_BYTES, Columns
from pipeline.shards.fingerprints import fingerprint
from pipeline.shards.shard_groups import NOTES, ShardToRead, group_shards, join_groups, read_group
from pipeline.shards.shards_datasource import ShardsDatasource
from tests.broken_inputs import fits_file
from tests.drawings import draw_galaxy, write_labeled_shard
from tests.pipeline.test_webdataset import tar_of

LARGE = MAX_SHARD_BYTES + 1
WANTED = ["object_id", "ra", "dec", "image"]


def shards(*rows: int | None, size: int = 1) -> list[ShardToRead]:
    """Shards of so many rows; None: a tar."""
    return [ShardToRead(f"/{i}.{'tar' if n is None else 'parquet'}", size, n) for i, n in enumerate(rows)]


@pytest.mark.parametrize(
    ("given", "tasks", "sizes"),
    [
        (shards(), 1, []),
        (shards(0), 1, [1]),
        (shards(*[500] * 12), 1, [8, 4]),
        (shards(0, 0, 5), 8, [2, 1]),
        (shards(*[4096] * 8), 1, [1] * 8),
        (shards(*[100] * 400), 1, [40] * 10),
        (shards(*[100] * 400), 40, [10] * 40),
        # Few rows are shared among the readers.
        (shards(*[10] * 80), 8, [10] * 8),
        (shards(5000, 10, 10, 5000), 1, [1, 2, 1]),
        (shards(None, 10, None, 10, 10), 1, [1, 1, 1, 2]),
        # Of few rows, but large ones; and one that is not to be held at all.
        (shards(*[10] * 8, size=MAX_SHARD_BYTES // 4), 1, [4, 4]),
        ([*shards(10, 10), ShardToRead("/large.parquet", LARGE, 10), *shards(10)], 1, [2, 1, 1]),
        # What was never opened goes by its size.
        ([ShardToRead(f"/{i}.parquet", 100) for i in range(8)], 4, [2] * 4),
    ],
)
def test_small_shards_go_together(given: list[ShardToRead], tasks: int, sizes: list[int]) -> None:
    groups = group_shards(given, tasks)
    assert [len(group) for group in groups] == sizes
    assert [shard for group in groups for shard in group] == given


def write_mixed_sky(folder: Path) -> dict[str, Path]:
    """A shard of each kind, in the order of their names."""
    good = write_labeled_shard(folder / "a.parquet", {"CRS": 300, "EO": 2})
    damaged = write_labeled_shard(folder / "b.parquet", {"CRS": 4}, first_id=1000)
    content = bytearray(damaged.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    damaged.write_bytes(content)
    sky = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0}
    image = fits_file(
        np.ones((24, 24), np.float32), CRPIX1=12.5, CRPIX2=12.5, CDELT1=-1e-4, CDELT2=1e-4, **sky
    )
    pq.write_table(pa.table({"object_id": ["J1"], "image": pa.array([image])}), folder / "c.parquet")
    (folder / "d.tar").write_bytes(
        tar_of([("J2.jpg", draw_galaxy("EO", 0)), ("J2.json", json.dumps({"ra": 7.5}).encode())])
    )
    pq.write_table(pq.read_schema(good).empty_table(), folder / "e.parquet")
    pq.write_table(pq.read_table(good).slice(0, 3), folder / "f.parquet")
    return {path.name[0]: path for path in sorted(folder.iterdir())}


@pytest.mark.usefixtures("ray_session")
def test_shards_of_all_kinds_are_rows_of_one_dataset(tmp_path: Path) -> None:
    paths = write_mixed_sky(tmp_path / "sky")
    # Ids of one kind: a dataset has one type for a column.
    table = pq.read_table(paths["c"])
    pq.write_table(table.set_column(0, "object_id", pa.array([77])), paths["c"])
    paths.pop("d").unlink()
    read = ray.data.read_datasource(ShardsDatasource(str(tmp_path / "sky"), wanted=WANTED, carry=["label"]))
    rows = sorted(read.take_all(), key=lambda row: (row["_shard"], row["_row"] or 0))
    assert list(read.schema().names) == [*WANTED, "label", "_shard", "_row", "_failed"]
    found = [(Path(row["_shard"]).name, row["_row"]) for row in rows]
    expected = [("a.parquet", n) for n in range(302)] + [("b.parquet", None), ("c.parquet", 0)]
    # The FITS shard has no label, which is damage to who wants it carried.
    assert found[:303] == expected[:303]
    assert [row["object_id"] for row in rows[:302]] == list(range(302))
    assert rows[0]["image"] == pq.read_table(paths["a"])["image"][0].as_py()
    assert rows[302]["_failed"]
    assert rows[302]["image"] is None
    assert found[-3:] == [("f.parquet", 0), ("f.parquet", 1), ("f.parquet", 2)]
    assert all(row["_failed"] is None for row in [*rows[:302], *rows[-3:]])


@pytest.mark.usefixtures("ray_session")
def test_fits_and_tars_have_the_contract_s_columns(tmp_path: Path) -> None:
    paths = write_mixed_sky(tmp_path / "sky")
    for name in "abef":
        paths[name].unlink()
    rows = ray.data.read_datasource(ShardsDatasource(str(tmp_path / "sky"))).take_all()
    (fits, tar) = sorted(rows, key=lambda row: str(row["_shard"]))
    assert (fits["object_id"], round(fits["ra"], 3), round(fits["dec"], 3)) == ("J1", 150.0, 2.0)
    assert (tar["object_id"], tar["ra"], tar["dec"]) == ("J2", 7.5, None)
    with pytest.raises(UserError, match="check the path"):
        ShardsDatasource(str(tmp_path / "nowhere"))


def test_a_whole_group_is_one_table_in_which_what_cannot_be_held_is_left_out(tmp_path: Path) -> None:
    paths = write_mixed_sky(tmp_path / "sky")
    group = [
        ShardToRead(str(path), LARGE if name == "f" else path.stat().st_size, None, fingerprint(str(path)))
        for name, path in paths.items()
    ]
    group.append(ShardToRead(str(paths["a"]), 100, None, "of another state"))
    asked: list[list[str]] = []

    def may_read(names: list[str]) -> bool:
        asked.append(names)
        return len(asked) == 1

    (table,) = read_group(group, Columns(), WANTED, [], may_read)
    assert table.schema.names == [*WANTED, *NOTES]
    rows = table.to_pylist()
    assert [row["object_id"] for row in rows[:302]] == list(range(302))
    assert not any(row["_left_out"] for row in rows[:302])
    # Damaged, ids of another type, a tar, empty, large, changed.
    rest = rows[302:]
    assert [Path(row["_shard"]).name[0] for row in rest] == [*"bcdef", "a"]
    assert all(row["_left_out"] and row["image"] is None for row in rest)
    assert [bool(row["_failed"]) for row in rest] == [True, False, False, False, False, True]
    assert "changed after the catalog was planned" in rest[-1]["_failed"]
    assert [row["_fingerprint"] for row in rest] == [shard.fingerprint for shard in group[1:]]

    (nothing,) = read_group(group, Columns(), WANTED, [], may_read)
    assert nothing["_left_out"].to_pylist() == [True] * 7
    assert asked == [[shard.path for shard in group]] * 2


def test_of_joined_groups_a_table_holds_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_groups, "MAX_SHARD_ROWS", 1)
    groups = []
    for name in "abcde":
        path = write_labeled_shard(tmp_path / f"{name}.parquet", {"CRS": 1}, first_id=ord(name))
        groups.append([ShardToRead(str(path), path.stat().st_size, 1)])
    assert join_groups(groups, 5) == groups
    joined = join_groups(groups, 2)
    assert [len(group) for group in joined] == [2, 2, 1]
    assert [shard for group in joined for shard in group] == [shard for group in groups for shard in group]
    (table,) = read_group(joined[0], Columns(), WANTED, [])
    assert table["object_id"].to_pylist() == [ord("a"), None]
    assert table["_left_out"].to_pylist() == table["_later"].to_pylist() == [False, True]
    (table,) = read_group(joined[0], Columns(), WANTED, [], lambda _: False)
    assert table["_left_out"].to_pylist() == [True, True]
    assert table["_later"].to_pylist() == [False, False]
