"""What stands on a galaxy's card: its scale bar, its links to the sky, and where the scale comes from."""

from __future__ import annotations

import math
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hiwl_core.decoding import Cutout
from pipeline.evaluation.shown_galaxies import typical
from pipeline.pages.cards import thumbnail
from pipeline.pages.class_notes import class_sentence
from pipeline.pages.confusion_cells import MOST_CELLS, pictured_cells
from pipeline.pages.scale_bars import scale_bar
from pipeline.pages.sky_viewers import sky_viewers
from pipeline.querying.origin import read_cutouts
from pipeline.shards.cutout_shards import Columns
from tests.pictured_sky import picture


@pytest.mark.parametrize(
    ("arcsec", "words", "length"),
    [
        (100.0, "30″", 30),
        (25.0, "10″", 10),
        (32.0, "10″", 10),
        (24.9, "5″", 5),
        (1.0, "0.2″", 0.2),
        (180.0, "1′", 60),
        (3600.0, "20′", 1200),
        (20_000.0, "2°", 7200),
    ],
)
def test_a_bar_is_the_longest_round_length_that_fits(arcsec: float, words: str, length: float) -> None:
    bar = scale_bar(arcsec)
    assert bar is not None
    assert (bar.words, bar.share) == (words, pytest.approx(length / arcsec))
    assert bar.share <= 0.4


@pytest.mark.parametrize("arcsec", [None, math.nan, math.inf, 0.0, -3.0, 0.2])
def test_no_bar_without_a_scale(arcsec: float | None) -> None:
    assert scale_bar(arcsec) is None


@pytest.mark.parametrize(
    ("ra", "dec", "x", "y"),
    [
        (191.225631, 4.79965, 191.225631, 4.79965),
        (-10.0, -89.0, 350.0, -89.0),
        (359.99999999, 90.0, 0, 90),
    ],
)
def test_links_have_the_position(ra: float, dec: float, x: float, y: float) -> None:
    found = {viewer.name: viewer.url for viewer in sky_viewers(ra, dec)}
    # SDSS never looked so far south.
    assert list(found) == ["Legacy", *(["SDSS"] if dec > -25 else []), "Aladin"]
    places = {name: parse_qs(urlsplit(url).query) for name, url in found.items()}
    aladin = places.pop("Aladin")["target"][0].split()
    assert [float(one) for one in aladin] == [x, y]
    for place in places.values():
        assert (float(place["ra"][0]), float(place["dec"][0])) == (x, y)


@pytest.mark.parametrize(
    ("ra", "dec"), [(None, 5.0), (5.0, None), (math.nan, 5.0), (5.0, 91.0), (5.0, math.nan), (math.inf, 0.0)]
)
def test_no_links_without_a_position(ra: float | None, dec: float | None) -> None:
    assert sky_viewers(ra, dec) == []


def test_the_scale_is_that_of_the_shard_whatever_stands_there(tmp_path: Path) -> None:
    shard = tmp_path / "a.parquet"
    scales = [0.4, None, math.nan, -1.0, math.inf]
    ids, images = list(range(5)), [picture(n) for n in range(5)]
    pq.write_table(pa.table({"object_id": ids, "image": images, "arcsec": scales}), shard)
    rows = [(n, "ok") for n in ids]
    found = read_cutouts(str(shard), Columns(pixel_scale="arcsec"), rows)
    assert [one and one.image for one in found] == images
    assert [one and one.pixel_scale for one in found] == [0.4, None, None, None, None]
    pq.write_table(pa.table({"object_id": ids, "image": images, "arcsec": ["wide"] * 5}), shard)
    assert [one and one.pixel_scale for one in read_cutouts(str(shard), Columns(), rows)] == [None] * 5
    # 64 pixels, made smaller: on the sky it is as large as before.
    small, _ = thumbnail(Cutout(images[0], 0.4), 32, "")
    assert small is not None
    assert small.arcsec == pytest.approx(25.6)
    (tmp_path / "small.jpg").write_bytes(small.image)
    assert Image.open(tmp_path / "small.jpg").size == (32, 32)
    unscaled, _ = thumbnail(Cutout(images[0]), 32, "")
    assert unscaled is not None
    assert unscaled.arcsec is None


def test_classes_of_ones_own_have_ones_own_words() -> None:
    assert class_sentence("SPI", "spiral") == "A disk with spiral arms, seen from above or at a slant."
    assert class_sentence("ring", "galaxies with a ring") == "Galaxies with a ring."
    assert class_sentence("bar", "Is it barred?") == "Is it barred?"
    assert class_sentence("none", "") == ""
    assert class_sentence("arms", "spiral") == "Spiral."


def test_mistakes_come_before_what_is_right_and_not_all_of_many_classes() -> None:
    five = pd.DataFrame([[50, 2, 0], [9, 40, 1], [0, 0, 3]])
    assert pictured_cells(five) == [(1, 0), (0, 1), (1, 2), (0, 0), (1, 1), (2, 2)]
    assert len(pictured_cells(pd.DataFrame([[1] * 9] * 9))) == MOST_CELLS


def test_a_typical_galaxy_is_right_sure_and_like_the_others() -> None:
    rows = [
        ("odd", "SPI", "SPI", 0.99, 5.0),
        ("typical", "SPI", "SPI", 0.95, 0.1),
        ("unsure", "SPI", "SPI", 0.4, 0.0),
        ("wrong", "SPI", "EO", 1.0, 0.0),
        ("missed", "CSS", "EO", 0.9, 1.0),
    ]
    galaxies = pd.DataFrame(rows, columns=["object_id", "true_label", "label", "confidence", "ood_score"])
    chosen = typical(galaxies)
    assert chosen.set_index("true_label")["object_id"].to_dict() == {"SPI": "typical", "CSS": "missed"}
    # A model that has no such score.
    without = typical(galaxies.assign(ood_score=math.nan))
    assert without.set_index("true_label")["object_id"]["SPI"] == "odd"
