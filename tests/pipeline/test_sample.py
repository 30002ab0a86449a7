"""Pages of cutouts: the right picture for each row, read back from its own shard alone."""

from __future__ import annotations

import base64
import io
import re
import shutil
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from jobs.cli import main
from pipeline import storage
from pipeline.querying.cone import Cone
from pipeline.querying.origin import read_cutouts
from pipeline.querying.sample import sample
from pipeline.shards.cutout_shards import Columns
from tests.catalogs import write_catalog
from tests.object_store import ObjectStore
from tests.pictured_sky import FIRST_ID, ROWS, Sky, color, make_sky, picture


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    return make_sky(tmp_path_factory.mktemp("sample"))


class Cards(HTMLParser):
    """What a reader of the page sees, card by card; and whatever would be loaded from elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cards: list[dict[str, Any]] = []
        self.links: list[str] = []
        self.classes: list[Image.Image] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "article":
            self.cards.append({"text": [], "image": None, "links": []})
        if tag == "img":
            kind, data = str(attributes["src"]).split(",", 1)
            assert kind == "data:image/jpeg;base64"
            image = Image.open(io.BytesIO(base64.b64decode(data)))
            if self.cards:
                self.cards[-1]["image"] = image
            else:
                self.classes.append(image)
        elif tag == "a":
            # For people to follow, and telling nobody where they come from.
            assert attributes["rel"] == "noopener noreferrer"
            self.cards[-1]["links"].append(attributes["href"])
        elif "src" in attributes or "href" in attributes:
            self.links.append(tag)

    def handle_data(self, data: str) -> None:
        if self.cards and data.strip():
            self.cards[-1]["text"].append(data.strip())


def cards(page: Path) -> list[dict[str, Any]]:
    text = page.read_text()
    seen = Cards(text)
    assert not seen.links
    assert not re.search(r"url\(|http:|<script|<link", text)
    assert set(re.findall(r".{6}https:", text)) <= {'href="https:'}
    for card in seen.cards:
        # The scale bar's words, where the shards say the scale.
        card["text"] = card["text"][card["text"][0] == "10\N{DOUBLE PRIME}" :]
    return seen.cards


def check_pictures(sky: Sky, shown: list[dict[str, Any]]) -> None:
    """Each card has the picture of the galaxy whose id and label it shows."""
    by_id = {str(row["object_id"]): (number, row) for number, row in enumerate(sky.rows)}
    for card in shown:
        number, row = next(by_id[text] for text in card["text"] if text in by_id)
        assert np.abs(np.array(card["image"])[32, 32].astype(int) - color(number)).max() <= 6, card
        assert card["text"][0] == (row["label"] or row["status"])
        if row["label"]:
            assert card["text"][1] == f"{row['confidence']:.3f}"
            for name in ("crs", "ibs", "css", "eo", "spi"):
                assert f"{row['p_' + name]:.3f}" in card["text"]
        assert f"{row['ra']:.5f}° {row['dec']:+.5f}°".replace("-", "−") in card["text"]
        assert len(card["links"]) == 3
        for link in card["links"][:2]:
            assert f"?ra={row['ra']:.6f}&dec={row['dec']:.6f}&" in link


def test_each_galaxy_has_its_own_picture(sky: Sky, tmp_path: Path) -> None:
    where = "label = 'SPI' AND confidence < 0.8"
    summary = sample(str(sky.catalog), str(tmp_path / "look.html"), where, count=40)
    shown = cards(tmp_path / "look.html")
    matching = [row for row in sky.rows if row["label"] == "SPI" and row["confidence"] < 0.8]
    assert len(matching) > 40 == len(shown) == summary.shown
    assert (summary.matching, summary.without_image, summary.shards) == (len(matching), 0, 2)
    check_pictures(sky, shown)
    assert {card["text"][0] for card in shown} == {"SPI"}
    page = Cards((tmp_path / "look.html").read_text())
    # Of the others there is none on the page to show.
    assert len(page.classes) == 1
    assert "A disk with spiral arms, seen from above or at a slant." in (tmp_path / "look.html").read_text()


def test_orders(sky: Sky, tmp_path: Path) -> None:
    def ids(name: str, **settings: Any) -> list[str]:
        sample(str(sky.catalog), str(tmp_path / name), count=30, **settings)
        return [next(t for t in card["text"] if t.startswith("12376")) for card in cards(tmp_path / name)]

    least = sorted((row["confidence"], str(row["object_id"])) for row in sky.rows if row["label"])[:30]
    assert ids("a.html", order="confidence") == [one for _, one in least]
    first = ids("b.html", seed=1)
    assert ids("c.html", seed=1) == first
    other = ids("d.html", seed=2)
    assert len(set(first) & set(other)) < 10
    # Not the first of the catalog, but of all of it.
    assert 5 < sum(int(one) >= FIRST_ID + ROWS for one in first) < 25


def test_a_cone_and_a_filter(sky: Sky, tmp_path: Path) -> None:
    summary = sample(
        str(sky.catalog), str(tmp_path / "a.html"), "status = 'ok' -- all", Cone(185, 30, 15), count=500
    )
    shown = cards(tmp_path / "a.html")
    check_pictures(sky, shown)
    assert 0 < summary.shown == summary.matching == len(shown) < 100


def test_only_shards_with_chosen_rows_are_read(sky: Sky, tmp_path: Path) -> None:
    moved = tmp_path / "shards"
    shutil.copytree(sky.shards, moved)
    names = sorted(path.name for path in moved.iterdir())
    (moved / names[1]).write_bytes(b"this would be an error")
    out = str(tmp_path / "a.html")
    summary = sample(str(sky.catalog), out, f"object_id < {FIRST_ID + ROWS}", count=5, shards=str(moved))
    assert (summary.shards, summary.without_image, summary.unread) == (1, 0, [])
    summary = sample(str(sky.catalog), out, f"object_id = {FIRST_ID + ROWS}", count=5, shards=str(moved))
    assert (summary.shards, summary.without_image, len(summary.unread)) == (1, 1, 1)


def test_what_cannot_be_shown_has_a_placeholder(tmp_path: Path) -> None:
    def change(rows: pa.Table, index: int) -> pa.Table:
        status = [
            *(["missing", "undecodable"] if index == 0 else ["ok"] * 2),
            *rows["status"].to_pylist()[2:],
        ]
        place = rows.column_names.index("status")
        return rows.set_column(place, rows.schema.field("status"), pa.array(status))

    sky = make_sky(tmp_path, change=change)
    first, second = sorted(sky.shards.iterdir())
    table = pq.read_table(first)
    images = table["picture"].to_pylist()
    images[0], images[1] = None, {"bytes": b"no picture", "path": None}
    ids = table["objid"].to_pylist()
    ids[20] += 10**6  # in the catalog, but not in the shard
    pq.write_table(pa.table({"objid": ids, "picture": pa.array(images, table["picture"].type)}), first)
    second.unlink()
    where = f"object_id IN ({', '.join(str(FIRST_ID + n) for n in (0, 1, 20, ROWS))})"
    result = CliRunner().invoke(
        main, ["sample", str(sky.catalog), str(tmp_path / "a.html"), "--where", where]
    )
    assert result.exit_code == 0, result.stderr
    assert "without a picture: 4" in result.stdout
    assert f"not read: {second}" in result.stderr
    assert "--shards" in result.stderr
    text = [" ".join(card["text"]) for card in cards(tmp_path / "a.html")]
    placeholders = ["missing: no image in the shard", "undecodable: not a whole JPEG"]
    placeholders += [
        "no picture of it in sky-00000-of-00002.parquet",
        "sky-00001-of-00002.parquet was not read",
    ]
    for number, words in zip((0, 1, 20, ROWS), placeholders, strict=True):
        assert sum(words in one and str(FIRST_ID + number) in one for one in text) == 1, (words, text)


def test_a_repeated_id_has_the_picture_of_its_own_row(sky: Sky, tmp_path: Path) -> None:
    shard = tmp_path / "a.parquet"
    ids = [5, 6, 5, None]
    pq.write_table(pa.table({"object_id": ids, "image": [picture(n) for n in range(4)]}), shard)
    rows = [(5, "duplicate_id"), (6, "ok"), (5, "ok"), (None, "no_id"), (7, "ok")]
    cutouts = read_cutouts(str(shard), Columns(), rows)
    assert [one and one.image for one in cutouts] == [picture(2), picture(1), picture(0), None, None]


def test_tars_text_ids_and_missing_positions(tmp_path: Path) -> None:
    def change(rows: pa.Table, index: int) -> pa.Table:
        names = pa.array([f"J{index}-{n:04d}" for n in range(len(rows))])
        return rows.set_column(0, rows.schema.field(0), names)

    catalog = tmp_path / "catalog"
    write_catalog(catalog, 1, 20, change=change, string_ids=True, without_position=3)
    shard = tmp_path / "sky-00000-of-00001.tar"
    with tarfile.open(shard, "w") as tar:
        for number in range(20):
            for ending, content in (("jpg", picture(number)), ("json", b'{"object_id": "J0-%04d"}' % number)):
                info = tarfile.TarInfo(f"{number:04d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    summary = sample(str(catalog), str(tmp_path / "a.html"), count=60, shards=str(shard))
    assert (summary.shown, summary.without_image) == (20, 0)
    shown = cards(tmp_path / "a.html")
    for card in shown:
        number = next(int(text[-4:]) for text in card["text"] if text.startswith("J0-"))
        assert np.abs(np.array(card["image"])[32, 32].astype(int) - color(number)).max() <= 6
    # The third is at a declination of 91 degrees.
    assert sum(not card["links"] for card in shown) == 3
    assert sum("no position" in card["text"] for card in shown) == 2


def test_catalog_shards_and_page_in_object_storage(
    sky: Sky, tmp_path: Path, object_store: ObjectStore
) -> None:
    url = f"{object_store.url}/sample"
    for path in [*sky.catalog.iterdir(), *sky.shards.iterdir()]:
        storage.write_bytes(f"{url}/{path.parent.name}/{path.name}", path.read_bytes())
    for _ in range(2):
        summary = sample(f"{url}/catalog", f"{url}/a.html", "status = 'ok'", count=10, shards=f"{url}/shards")
        assert (summary.shown, summary.without_image, summary.unread) == (10, 0, [])
    page = tmp_path / "a.html"
    page.write_bytes(storage.read_bytes(f"{url}/a.html"))
    check_pictures(sky, cards(page))


def test_only_pages_of_its_own_are_replaced(sky: Sky, tmp_path: Path) -> None:
    def run(out: Path, *more: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["sample", str(sky.catalog), str(out), "--count", "2", *more])
        return result.exit_code, result.stderr

    page = tmp_path / "page.html"
    assert run(page)[0] == 0
    assert run(page, "--seed", "3")[0] == 0
    mine = tmp_path / "mine.html"
    mine.write_text("<!doctype html><p>mine</p>")
    code, stderr = run(mine)
    assert (code, len(stderr.splitlines())) == (2, 1)
    assert "mine.html is there already" in stderr
    assert mine.read_text() == "<!doctype html><p>mine</p>"
    assert run(tmp_path)[0] == 2


def test_mistakes_are_one_line(sky: Sky, tmp_path: Path) -> None:
    out = str(tmp_path / "a.html")
    bare = tmp_path / "bare"
    write_catalog(bare, 1, 3)
    cases = {
        'Referenced column "lable"': [str(sky.catalog), out, "--where", "lable = 'CSS'"],
        "Parser Error": [str(sky.catalog), out, "--where", "label = "],
        "2 statements in the SQL": [str(sky.catalog), out, "--where", "true); DROP VIEW catalog; SELECT (1"],
        "name them with --shards": [str(bare), out],
        "no catalog at": [str(tmp_path / "nowhere"), out],
        "no file or folder": [str(sky.catalog), out, "--shards", str(tmp_path / "nowhere")],
    }
    for message, arguments in cases.items():
        result = CliRunner().invoke(main, ["sample", *arguments])
        assert result.exit_code == 2, (message, result.output)
        message = message.replace("2 statements", "3 statements")
        assert message in result.stderr, (message, result.stderr)
        assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not Path(out).exists()


def test_words_of_the_survey_are_words_on_the_page(tmp_path: Path) -> None:
    def change(rows: pa.Table, index: int) -> pa.Table:
        names = pa.array([f"<b>&{n}</b>" for n in range(len(rows))])
        return rows.set_column(0, rows.schema.field(0), names)

    sky = make_sky(tmp_path, change=change, string_ids=True)
    where = "object_id = '<b>&7</b>'"
    sample(str(sky.catalog), str(tmp_path / "a.html"), where)
    shown = cards(tmp_path / "a.html")
    assert len(shown) == 2
    assert all("<b>&7</b>" in card["text"] for card in shown)
