"""Tables of labels and votes as archives give them out: the same rows from each of them."""

import bz2
import gzip
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import MaskedColumn, Table

from hiwl_core.errors import UserError
from pipeline.ingestion.labels import read_labels
from pipeline.ingestion.text_tables import numbers, read_text_table

BIG_ID = 1237648720693755918
IDS = [str(BIG_ID), str(BIG_ID + 1), "3"]
CSV = f"GalaxyID,class,vote\n{BIG_ID},EO,0.469\n{BIG_ID + 1},,0.1\n3,SPI,\n".encode()


def astropy_table() -> Table:
    table = Table()
    table["GalaxyID"] = np.array([BIG_ID, BIG_ID + 1, 3])
    table["class"] = MaskedColumn(["EO", "", "SPI"], mask=[False, True, False])
    table["vote"] = [0.469, 0.1, np.nan]
    table["spectrum"] = np.zeros((3, 4))
    return table


def written(kind: str) -> bytes:
    table = astropy_table()
    if kind == "ascii.ecsv":
        text = io.StringIO()
        table.write(text, format=kind)
        return text.getvalue().encode()
    buffer = io.BytesIO()
    if kind == "parquet":
        arrow = pa.table({name: pa.array(table[name].tolist()) for name in ("GalaxyID", "class", "vote")})
        pq.write_table(arrow, buffer)
    else:
        table.write(buffer, format=kind)
    return buffer.getvalue()


TABLES: dict[str, Callable[[], bytes]] = {
    "plain": lambda: CSV,
    "SkyServer": lambda: b"#Table1\n" + CSV,
    "comments": lambda: b"\xef\xbb\xbf# made by hand\n# 3 rows, 3 columns\n" + CSV,
    "TOPCAT": lambda: b"# " + CSV,
    "TSV": lambda: CSV.replace(b",", b"\t"),
    "gz": lambda: gzip.compress(CSV),
    "bz2": lambda: bz2.compress(CSV),
    "ECSV": lambda: written("ascii.ecsv"),
    "VOTable": lambda: written("votable"),
    "FITS": lambda: written("fits"),
    "FITS.gz": lambda: gzip.compress(written("fits")),
    "Parquet": lambda: written("parquet"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_each_kind_of_table_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "table.any"
    path.write_bytes(TABLES[kind]())
    table = read_text_table(str(path))
    assert table["GalaxyID"].to_pylist() == IDS
    assert numbers(table["vote"]).to_pylist() == [0.469, 0.1, None]
    labels = read_labels(str(path), carry=["vote"])
    assert labels.table["label"].to_pylist() == ["EO", None, "SPI"]
    assert labels.table["id"].to_pylist() == IDS
    assert labels.table["carry:vote"].to_pylist() == [0.469, 0.1, None]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(CSV)[:-12], "cannot be unpacked: a packed file that is cut off"),
        (gzip.compress(bytes(100)), "is no table: CSV, TSV, ECSV, VOTable, FITS or Parquet is wanted"),
        (b"PK\x03\x04\x00\x00", "is no table"),
        (b"SIMPLE  =                    T", "cannot be read as a table"),
        (b"<?xml version='1.0'?><VOTABLE><RESOURCE/></VOTABLE>", "cannot be read as a table"),
        (b"# %ECSV 1.0\n# ---\nnonsense", "cannot be read as a table"),
        (b"PAR1nonsense", "cannot be read as a table"),
        (b"# a comment alone", "is empty"),
        (b"", "is empty"),
        ("id,Größe\n1,2\n".encode("latin-1"), "is not a CSV table: 'utf-8'"),
    ],
    ids=["cut", "zeros", "zip", "FITS", "VOTable", "ECSV", "Parquet", "comment", "nothing", "Latin-1"],
)
def test_what_is_no_table_is_one_line_of_text(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "votes.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        read_text_table(str(path))
    assert str(caught.value).isprintable()


NO_TABLES = {
    "bytes": bytes(range(1, 256)) * 9,
    "latin-1": "objéct,class\n1,spirale é\n".encode("latin-1"),
    "UTF-16": "id,class\n1,SPI\n".encode("utf-16"),
    "a zip": b"PK\x03\x04" + bytes(range(1, 99)),
    "a torn gzip": b"\x1f\x8b\x08" + bytes(100),
    "a torn FITS": b"SIMPLE  =" + bytes(range(1, 99)) * 90,
    "a torn Parquet": b"PAR1" + bytes(99) + b"PAR1",
    "an open quote": b'a,b\n"1,2\n',
    "a long name": b"a" * 2**21 + b",b\n1,2\n",
    "names twice": b",".join(b"c%d" % (number // 2) for number in range(200_000)) + b"\n",
    "deep XML": b'<?xml version="1.0"?><VOTABLE>' + b"<a>" * 10_000,
    "entities": b'<?xml version="1.0"?><!DOCTYPE V [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + level, (b"&%c;" % (97 + level)) * 10) for level in range(9))
    + b"]><VOTABLE>&j;</VOTABLE>",
}


@pytest.mark.parametrize("kind", NO_TABLES)
def test_what_is_no_table_is_a_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(NO_TABLES[kind])
    started = time.process_time()
    with pytest.raises(UserError, match=r"labels\.csv") as refused:
        read_text_table(str(path))
    assert len(str(refused.value).splitlines()) == 1
    assert time.process_time() - started < 10
