import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.shards import webdataset
from pipeline.shards.cutout_shards import Columns, inspect_shard, iter_rows, list_shards, read_columns
from tests.broken_inputs import fits_file
from tests.drawings import draw_galaxy

BIG_ID = 1237648720693755918
WANTED = ["object_id", "ra", "dec", "image", "label"]
Files = list[tuple[str, bytes]]


def tar_of(files: Iterable[tuple[str, bytes]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def rows_of(path: Path, content: bytes, carry: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    path.write_bytes(content)
    return read_columns(str(path), Columns(), WANTED, carry).to_pylist()


def pairs(count: int, rng: np.random.Generator) -> Files:
    """JPEG-like and JSON members of `count` samples, of lengths at random."""
    files = []
    for index in range(count):
        files.append((f"J{index}+1.5.jpg", rng.bytes(int(rng.integers(1, 3000)))))
        files.append(
            (f"J{index}+1.5.json", json.dumps({"object_id": 1000 + index, "ra": index / 7}).encode())
        )
    return files


def test_keys_keep_their_dots_and_ids_their_digits(tmp_path: Path) -> None:
    files = [
        ("J1234+56.7.jpg", draw_galaxy("EO", 0)),
        ("J1234+56.7.json", json.dumps({"label": "EO", "ra": 188.5}).encode()),
        ("J1234+56.9.jpg", b"broken"),
        ("sub/third.png", b"png"),
        ("sub/third.json", json.dumps({"object_id": BIG_ID}).encode()),
    ]
    rows = rows_of(tmp_path / "w.tar", tar_of(files))
    assert [row["object_id"] for row in rows] == ["J1234+56.7", "J1234+56.9", str(BIG_ID)]
    assert [row["label"] for row in rows] == ["EO", None, None]
    assert [row["_status"] for row in rows] == [None] * 3
    assert rows[0]["ra"] == 188.5
    assert rows[1]["image"] == b"broken"
    assert inspect_shard(str(tmp_path / "w.tar")).rows is None


def test_names_of_galaxy_datasets(tmp_path: Path) -> None:
    files = [
        (f"{key}.{part}", content)
        for key in ("a", "b.5")
        for part, content in (
            ("image.jpg", key.encode()),
            ("labels.json", json.dumps({"object_id": key * 2, "smooth": 1}).encode()),
            ("weights.npy", b"?"),
        )
    ]
    rows = rows_of(tmp_path / "w.tar", tar_of(files), ("smooth",))
    assert [(row["object_id"], row["image"], row["smooth"]) for row in rows] == [
        ("aa", b"a", 1),
        ("b.5b.5", b"b.5", 1),
    ]


def test_of_two_members_of_one_name_the_second_is_a_duplicate(tmp_path: Path) -> None:
    meta = json.dumps({"object_id": BIG_ID, "ra": 12.5}).encode()
    files = [
        ("a.jpg", b"first"),
        ("a.jpg", b"second"),
        ("a.json", meta),
        ("b.jpg", b"b"),
        ("b.json", b"{}"),
        ("b.jpg", b"b again"),
        ("b.json", b"{}"),
        ("b.txt", b"no row"),
        ("b.txt", b"no row"),
        ("c.jpg", b"c"),
    ]
    rows = rows_of(tmp_path / "w.tar", tar_of(files))
    assert [(row["object_id"], row["image"], row["_status"]) for row in rows] == [
        (str(BIG_ID), b"first", None),
        (str(BIG_ID), None, "duplicate_id"),
        ("b", b"b", None),
        ("b", None, "duplicate_id"),
        ("c", b"c", None),
    ]
    assert [row["ra"] for row in rows[:2]] == [12.5, 12.5]


def test_fits_members_bring_their_position(tmp_path: Path) -> None:
    header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": -5.0}
    header |= {"CRPIX1": 4.5, "CRPIX2": 4.5, "CDELT1": -1e-4, "CDELT2": 1e-4}
    (row,) = rows_of(
        tmp_path / "w.tar", tar_of([("a.fits", fits_file(np.zeros((8, 8), np.int16), **header))])
    )
    assert (row["ra"], row["dec"]) == (pytest.approx(10), pytest.approx(-5))


def test_every_key_is_a_row_whatever_it_holds(tmp_path: Path) -> None:
    files = [
        ("a.webp", b"?"),
        ("b.json", b"not json"),
        ("c.jpg", b""),
        ("c.json", b'["no", "object"]'),
        ("no-suffix", b""),
        ("._d.jpg", b"a file manager's"),
        ("d.JPG", b"first"),
        ("d.png", b"second"),
        ("d.json", json.dumps({"object_id": 12.0, "ra": "x", "dec": 10**400, "label": "\ud800"}).encode()),
        ("\udcff.jpg", b"no text"),
    ]
    rows = rows_of(tmp_path / "w.tar", tar_of(files, errors="surrogateescape"))
    assert [(row["object_id"], row["image"]) for row in rows] == [
        ("a", None),
        ("b", None),
        ("c", b""),
        ("no-suffix", None),
        ("d", b"first"),
        ("\\xff", b"no text"),
    ]
    assert (rows[4]["ra"], rows[4]["dec"], rows[4]["label"]) == (None, None, "\\ud800")


def test_an_image_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_BYTES", 100)
    rows = rows_of(tmp_path / "w.tar", tar_of([("a.jpg", bytes(101)), ("b.jpg", bytes(100))]))
    assert [(row["image"], row["_status"]) for row in rows] == [(None, "too_large"), (bytes(100), None)]


def test_large_images_make_small_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "TABLE_BYTES", 1000)
    (tmp_path / "w.tar").write_bytes(tar_of([(f"{n}.jpg", bytes(400)) for n in range(7)]))
    assert [table.num_rows for table in iter_rows(str(tmp_path / "w.tar"), Columns(), WANTED)] == [3, 3, 1]


def test_values_that_do_not_go_together_become_texts(tmp_path: Path) -> None:
    values = [1, "n/a", None, [1.5], {"a": 2}]
    files = [(f"{n}.json", json.dumps({"z": value}).encode()) for n, value in enumerate(values)]
    rows = rows_of(tmp_path / "w.tar", tar_of(files), ("z",))
    assert [row["z"] for row in rows] == ["1", "n/a", None, "[1.5]", '{"a": 2}']


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_form_of_tar(tmp_path: Path, form: int) -> None:
    name = "/".join(["folder" * 10, "galaxy" * (10 if form == tarfile.USTAR_FORMAT else 30)])
    rows = rows_of(tmp_path / "w.tar", tar_of([(f"{name}.jpg", b"x")], format=form))
    assert [row["object_id"] for row in rows] == [name.rsplit("/", 1)[-1]]


def test_links_and_folders_are_no_samples_and_tars_in_a_row_are_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo("x.jpg")
            member.type = kind
            tar.addfile(member)
    content = buffer.getvalue() + tar_of([("a.jpg", b"a")]) + tar_of([("b.jpg", b"b")]) + b"trailing garbage"
    assert [row["object_id"] for row in rows_of(tmp_path / "w.tar", content)] == ["a", "b"]


@pytest.mark.parametrize("content", [tar_of([]), tar_of([("x.jpg", b"")])[:0]])
def test_an_empty_tar_is_a_table_and_an_empty_file_a_break(tmp_path: Path, content: bytes) -> None:
    rows = rows_of(tmp_path / "w.tar", content)
    assert [row["_status"] for row in rows] == ([] if content else ["broken_shard"])


def assert_good_then_break(rows: list[dict[str, Any]], files: Files, whole: int, name: str) -> int:
    """The first `whole` of the paired samples and one row on the break, whose byte is the answer."""
    *good, last = rows
    assert [row["image"] for row in good] == [files[2 * index][1] for index in range(whole)]
    assert [row["object_id"] for row in good] == [str(1000 + index) for index in range(whole)]
    assert {row["_status"] for row in good} <= {None}
    assert (last["_status"], last["image"], last["ra"]) == ("broken_shard", None, None)
    tar, _, offset = last["object_id"].rpartition("@")
    assert tar == name
    return int(offset)


def member_ends(content: bytes) -> list[int]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return [member.offset_data + member.size for member in tar]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_wherever_a_tar_is_cut_off_the_samples_before_are_there(tmp_path: Path, form: int) -> None:
    rng = np.random.default_rng(7)
    files = pairs(12, rng)
    content = tar_of(files, format=form)
    ends = member_ends(content)
    boundaries = [cut for end in ends for cut in (end - 1, end, end + 1, -(-end // 512) * 512)]
    cuts = [0, 1, 511, 512, *boundaries, *rng.integers(0, ends[-1], 150).tolist()]
    # Of the first sample of all nobody knows whether a JSON was to follow; see the next test.
    for cut in (cut for cut in cuts if not ends[0] <= cut < ends[1]):
        whole = sum(end <= cut for end in ends[1::2])
        offset = assert_good_then_break(rows_of(tmp_path / "w.tar", content[:cut]), files, whole, "w.tar")
        # Where the next header should begin.
        assert offset <= -(-cut // 512) * 512


def test_a_sample_without_json_is_whole_where_no_sample_has_any(tmp_path: Path) -> None:
    files = [(f"{n}.jpg", bytes([n]) * 700) for n in range(5)]
    content = tar_of(files, format=tarfile.GNU_FORMAT)
    rows = rows_of(tmp_path / "w.tar", content[: 3 * 1536])
    assert [row["object_id"] for row in rows] == ["0", "1", "2", "w.tar@4608"]


def test_a_first_sample_whose_json_may_be_lost_is_kept_under_its_key(tmp_path: Path) -> None:
    content = tar_of([("a.jpg", bytes(512)), ("a.json", b'{"object_id": 5}')], format=tarfile.GNU_FORMAT)
    for cut, expected in [
        (1024, ["a", "w.tar@1024"]),
        (1536, ["w.tar@1024"]),
        (1536 + 16, ["5", "w.tar@2048"]),
    ]:
        assert [row["object_id"] for row in rows_of(tmp_path / "w.tar", content[:cut])] == expected


def test_damaged_headers_end_a_tar_with_a_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    files = pairs(6, rng)
    content = tar_of(files, format=tarfile.GNU_FORMAT)
    starts = [0, *(-(-end // 512) * 512 for end in member_ends(content))]
    for index, start in list(enumerate(starts[:-1]))[2:]:
        damaged = bytearray(content)
        damaged[start + 5 : start + 90] = rng.bytes(85)
        offset = assert_good_then_break(
            rows_of(tmp_path / "w.tar", bytes(damaged)), files, index // 2, "w.tar"
        )
        assert offset == start


def test_a_tail_of_zeros_is_no_end(tmp_path: Path) -> None:
    files = pairs(3, np.random.default_rng(9))
    content = tar_of(files, format=tarfile.GNU_FORMAT)
    cut = -(-member_ends(content)[3] // 512) * 512
    rows = rows_of(tmp_path / "w.tar", content[:cut] + bytes(3 * 2**20))
    assert assert_good_then_break(rows, files, 2, "w.tar") == cut


@pytest.mark.parametrize("seed", range(3))
def test_no_damage_at_all_raises(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng([10, seed])
    content = tar_of(pairs(6, rng), format=(tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)[seed % 2])
    for _ in range(100):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), int(rng.integers(1, 60))):
            damaged[position] = rng.integers(256)
        rows = rows_of(tmp_path / "w.tar", bytes(damaged))
        assert [row["_status"] for row in rows[:-1]] == [None] * (len(rows) - 1)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar"])
def test_gzipped_tars(tmp_path: Path, suffix: str) -> None:
    files = pairs(8, np.random.default_rng(11))
    packed = gzip.compress(tar_of(files), mtime=0)
    path = tmp_path / f"w{suffix}"
    rows = rows_of(path, packed)
    assert [row["image"] for row in rows] == [content for name, content in files if name.endswith("jpg")]
    assert list_shards(str(tmp_path)) == [str(path)]
    previous = -1
    for cut in np.linspace(0, len(packed) - 400, 25).astype(int).tolist():
        rows = rows_of(path, packed[:cut])
        assert_good_then_break(rows, files, len(rows) - 1, path.name)
        assert len(rows) > previous
        previous = len(rows) - 1
    assert previous >= 5
