"""The explorer: questions to a catalog, the table of labels, the guarded server, the page in a browser."""

from __future__ import annotations

import asyncio
import csv
import errno
import http.client
import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from hiwl_core.errors import UserError
from hiwl_core.taxonomy import Taxonomy, probability_column
from jobs.cli import main
from pipeline import storage
from pipeline.catalog.catalog_schema import catalog_schema
from pipeline.catalog.class_names import classes_in
from pipeline.exploring.asked import Asked, Box
from pipeline.exploring.catalog_view import CatalogView
from pipeline.exploring.explore import labels_folder
from pipeline.exploring.explorer import Explorer
from pipeline.exploring.images import find_images
from pipeline.exploring.labeling_choice import choose_for_labeling, read_choice, spread
from pipeline.exploring.labels import Labels
from pipeline.exploring.server import Server
from pipeline.ingestion.labels import read_labels
from pipeline.lease import Lease
from tests.browser import chromium, open_browser
from tests.catalogs import write_catalog
from tests.object_store import ObjectStore
from tests.pictured_sky import ROWS, Sky, color, make_sky

CLASSES = ["CRS", "IBS", "CSS", "EO", "SPI"]


def with_features(rows: pa.Table, part: int) -> pa.Table:
    """Three numbers for each classified galaxy, as a catalog of `hiwl classify --features` has them."""
    values = np.random.default_rng(part).normal(size=(len(rows), 3)).astype(np.float32)
    values[rows["label"].is_null().to_numpy()] = np.nan
    return rows.append_column("features", pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3))


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    return make_sky(tmp_path_factory.mktemp("explored"), without_position=4, change=with_features)


@pytest.fixture(scope="module")
def view(sky: Sky) -> CatalogView:
    return CatalogView(str(sky.catalog))


def ids(view: CatalogView, **asked: Any) -> list[Any]:
    return [place.object_id for place in view.listing(Asked(**asked))]


def test_lists_are_those_of_the_rows(sky: Sky, view: CatalogView) -> None:
    rows = [row for row in sky.rows if row["label"]]
    by_confidence = sorted(rows, key=lambda row: (row["confidence"], row["object_id"]))
    assert ids(view) == [row["object_id"] for row in by_confidence]
    by_score = sorted(rows, key=lambda row: (-row["ood_score"], row["object_id"]))
    assert ids(view, order="unlike") == [row["object_id"] for row in by_score]
    placed = [(row["ra"], row["object_id"]) for row in sky.rows if np.isfinite(row["ra"] or np.nan)]
    assert ids(view, order="ra", descending=True) == [
        one for _, one in sorted(placed, key=lambda pair: (-pair[0], pair[1]))
    ]
    everything = [row["object_id"] for row in sky.rows]
    assert ids(view, order="catalog") == everything
    drawn = ids(view, order="random", seed=1)
    assert sorted(drawn) == everything != drawn == ids(view, order="random", seed=1)
    assert drawn != ids(view, order="random", seed=2)

    box = Box(x="ra", y="dec", x0=200, x1=150, y0=0, y1=30)
    found = ids(
        view,
        where="p_spi > 0.2 -- enough",
        classes=("SPI", "EO"),
        low=0.5,
        high=0.9,
        boxes=(box,),
        unflagged=True,
    )
    assert found == [
        row["object_id"]
        for row in by_confidence
        if row["p_spi"] > 0.2
        and row["label_map"] in ("SPI", "EO")
        and 0.5 <= row["confidence"] <= 0.9
        and row["ra"] is not None
        and 150 <= row["ra"] <= 200
        and 0 <= row["dec"] <= 30
        and row["flags"] == 0
    ]
    assert 0 < len(found) < 100
    assert len(ids(view, order="catalog", classes=("",))) == sum(row["label"] is None for row in sky.rows) > 0
    chosen = everything[5:9]
    labeled = view.listing(Asked(labeled="yes", order="catalog"), chosen)
    assert [place.object_id for place in labeled] == chosen
    others = view.listing(Asked(labeled="no", order="catalog"), chosen)
    assert [place.object_id for place in others] == [one for one in everything if one not in chosen]


def test_those_that_are_most_like_a_galaxy(sky: Sky, view: CatalogView, tmp_path: Path) -> None:
    seen = [(number, row) for number, row in enumerate(sky.rows) if row["label"] is not None]
    names = sorted(part.name for part in sky.catalog.glob("*.parquet"))
    number, row = seen[400]
    like = {"part": names[number // ROWS], "id": str(row["object_id"])}
    features = np.array([row["features"] for _, row in seen])
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    order = np.argsort(-(features @ features[400]), kind="stable")
    found = ids(view, order="similar", like=like)
    # Of nearly the same likeness either may be first.
    assert found[0] == row["object_id"]
    assert found[:20] == [seen[one][1]["object_id"] for one in order[:20]]
    assert len(found) == len(seen) < len(sky.rows)
    spirals = ids(view, order="similar", like=like, classes=("SPI",))
    assert spirals == [one for one in found if one in set(spirals)]
    for wrong, words in ((None, "needs a galaxy"), ({**like, "id": "7"}, "galaxy 7 has no features")):
        with pytest.raises(UserError, match=words):
            ids(view, order="similar", like=wrong)
    write_catalog(tmp_path / "plain", 1, 10)
    with pytest.raises(UserError, match="no order 'similar' of a catalog without the column 'features'"):
        ids(CatalogView(str(tmp_path / "plain")), order="similar", like=like)


def test_counts_planes_and_rows(sky: Sky, view: CatalogView) -> None:
    counts = view.counts(Asked(low=0.7, classes=("CSS",)))
    sure = [row["label_map"] for row in sky.rows if row["label"] and row["confidence"] >= 0.7]
    assert counts == {name: sure.count(name) for name in counts}
    assert sum(counts.values()) == len(sure)

    plane = view.plane(Asked(), "ra", "dec")
    placed = [row for row in sky.rows if row["ra"] is not None and np.isfinite([row["ra"], row["dec"]]).all()]
    assert sum(cell[2] for cell in plane.cells) == len(placed)
    assert plane.x == (min(row["ra"] for row in placed), max(row["ra"] for row in placed))
    part = view.plane(Asked(), "confidence", "ood_score", (0.6, 0.8), (0.0, 2.0))
    inside = [
        row for row in sky.rows if row["label"] and 0.6 <= row["confidence"] <= 0.8 and row["ood_score"] <= 2
    ]
    assert sum(cell[2] for cell in part.cells) == len(inside)
    assert all(0 <= i < part.bins[0] and 0 <= j < part.bins[1] for i, j, _ in part.cells)

    places = view.listing(Asked(order="random"))[:40]
    by_id = {row["object_id"]: row for row in sky.rows}
    for place, row in zip(places, view.rows(places), strict=True):
        assert row.pop("_part") == place.part
        assert str(row) == str(by_id[place.object_id])


def test_sql_reads_the_catalog_and_nothing_else(sky: Sky, view: CatalogView, tmp_path: Path) -> None:
    columns, rows, more = view.answer(
        "SELECT label, count(*) AS n FROM catalog GROUP BY label ORDER BY n DESC"
    )
    assert (columns, len(rows), more) == (["label", "n"], 6, False)
    assert view.answer("FROM catalog")[2]
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    part = next(sky.catalog.glob("*.parquet"))
    before = part.read_bytes()
    for sql in (
        f"SELECT * FROM read_csv('{secret}')",
        f"SELECT * FROM '{secret}'",
        f"SELECT * FROM glob('{tmp_path}/*')",
        f"COPY (SELECT 1) TO '{part}'",
        f"SELECT * FROM query('COPY (SELECT 1) TO ''{part}''')",
        "SET enable_external_access = true",
        "DROP VIEW catalog",
        "SELECT 1; SELECT 2",
    ):
        with pytest.raises(UserError):
            view.answer(sql)
    for asked in (
        {"where": "true); DROP VIEW catalog; SELECT (1"},
        {"where": "lable = 'CSS'"},
        {"order": "lable"},
    ):
        with pytest.raises(UserError):
            view.listing(Asked(**asked))
    assert part.read_bytes() == before


def test_a_catalog_in_object_storage(sky: Sky, object_store: ObjectStore, view: CatalogView) -> None:
    for path in sky.catalog.iterdir():
        storage.write_bytes(f"{object_store.url}/explored/{path.name}", path.read_bytes())
    remote = CatalogView(f"{object_store.url}/explored")
    asked = Asked(order="unlike", where="ra < 200")
    places = view.listing(asked)
    assert remote.listing(asked) == places
    assert str(remote.rows(places[:5])) == str(view.rows(places[:5]))
    with pytest.raises(UserError):
        remote.answer("SELECT * FROM read_csv('/etc/passwd')")


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_labels_are_added_taken_back_and_there_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = Labels(str(tmp_path), CLASSES)
    shown = {"model_id": "m", "model_class": "EO", "model_confidence": 0.5, "answer_shown": True}
    labels.add("1", "CSS", "ada", {**shown, "ra": 3.0, "dec": 4.0, "why": "uncertain"})
    labels.add("2", "unsure", "ada", shown)
    labels.add("1", "EO", "ada", shown)
    labels.add("3", "SPI", "bob", shown)
    assert labels.undo("ada") == ("1", "CSS")
    assert labels.undo("ada") == ("2", None)
    assert labels.counts() == {"CSS": 1, "SPI": 1}
    with pytest.raises(UserError, match="no class 'cigar'"):
        labels.add("4", "cigar", "ada", shown)
    lines = labels.path.read_bytes()
    assert [json.loads(line)["event"] for line in lines.splitlines()] == ["label"] * 4 + ["undo"] * 2

    # A line that broke off is not one; what comes next is.
    labels.path.write_bytes(lines + b'{"number": 7, "when": "2026')
    again = Labels(str(tmp_path), CLASSES)
    assert again.now() == labels.now()
    assert labels.path.read_bytes() != lines
    again.add("2", "IBS", "ada", shown)
    assert labels.path.read_bytes().startswith(lines)
    assert Labels(str(tmp_path), CLASSES).counts() == {"IBS": 1, "CSS": 1, "SPI": 1}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            again.add("9", "IBS", "ada", shown)
    assert again.undo("bob") == ("3", None)
    assert len(Labels(str(tmp_path), CLASSES)) == 2
    assert again.undo("bob") is None

    with pytest.raises(UserError, match="has labels of the class"):
        Labels(str(tmp_path), ["bar", "none"])
    labels.path.write_bytes(lines.replace(b'"event": "undo"', b'"event": "und0"'))
    with pytest.raises(UserError, match=r"labels\.jsonl, line 5"):
        Labels(str(tmp_path), CLASSES)
    # What is no table of labels stays as it is, with a line end or without.
    for other in (b"mine", b"mine\n", b"{}\n"):
        labels.path.write_bytes(other)
        with pytest.raises(UserError, match=r"labels\.jsonl, line 1"):
            Labels(str(tmp_path), CLASSES)
        assert labels.path.read_bytes() == other


@contextmanager
def serving(catalog: str, labels: Path, only: pa.Table | None = None, **images: Any) -> Iterator[str]:
    """The address of a page that is served by a thread of this process."""
    view = CatalogView(catalog, only)
    loop = asyncio.new_event_loop()
    runner = threading.Thread(target=loop.run_forever)
    with Lease(str(labels), "hiwl explore", keep=False) as lease:
        pictures = find_images(catalog, view.published, **images)
        explorer = Explorer(
            "<b>sky</b>", view, pictures, Labels(str(labels), list(view.classes)), "ada", lease
        )
        server = Server(explorer)
        runner.start()
        try:
            yield asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
        finally:
            asyncio.run_coroutine_threadsafe(server.close(), loop).result(60)
            loop.call_soon_threadsafe(loop.stop)
            runner.join()
            loop.close()


def fetch(
    address: str, path: str = "", method: str = "GET", body: Any = None, **headers: str
) -> tuple[int, bytes, Any]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    content = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method, parts.path + path, content, {**given, **headers})
    response = connection.getresponse()
    return response.status, response.read(), response.headers


def get(address: str, path: str, **query: Any) -> Any:
    status, body, _ = fetch(address, f"{path}?{urlencode(query)}")
    assert status == 200, body
    return json.loads(body)


def test_only_who_knows_the_address_is_answered(sky: Sky, tmp_path: Path) -> None:
    with serving(str(sky.catalog), tmp_path / "labels") as address:
        parts = urlsplit(address)
        status, page, headers = fetch(address)
        assert (status, headers.get_content_type()) == (200, "text/html")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert (headers["Referrer-Policy"], headers["X-Content-Type-Options"]) == ("no-referrer", "nosniff")
        assert b"//" not in page
        assert len(parts.path.strip("/")) >= 43
        bare = f"{parts.scheme}://{parts.netloc}/"
        for path in ("", "x" * 43 + "/", "x" * 43 + "/api/facts", "\u00e9".encode().decode("latin-1") + "/"):
            status, _, headers = fetch(bare, path.replace("\u00c3", "%C3").replace("\u00a9", "%A9"))
            assert status == 404
            assert headers["Content-Security-Policy"]
        # A name that somebody has pointed here, and a page of another site.
        assert fetch(address, Host="evil.example:80")[0] == fetch(address, Host="[")[0] == 403
        assert fetch(address, Host="localhost:1")[0] == 200
        assert fetch(address, "api/undo", "POST", {}, Origin="http://evil.example")[0] == 403
        # Reading is by GET, labels by POST, in JSON.
        assert fetch(address, "api/label")[0] == fetch(address, "api/facts", "POST", {})[0] == 404
        assert fetch(address, "api/undo", "POST", {}, **{"Content-Type": "text/plain"})[0] == 400
        assert fetch(address, "../../jobs/cli.py")[0] == 404
        assert fetch(address, "api/label", "POST", {"part": "x" * 10**5})[0] == 413


def test_rows_pictures_and_labels_by_the_server(sky: Sky, tmp_path: Path) -> None:
    with serving(str(sky.catalog), tmp_path / "labels") as address:
        facts = get(address, "api/facts")
        assert (facts["name"], facts["classes"], facts["no_pictures"]) == ("<b>sky</b>", CLASSES, "")
        asked = {"order": "random", "seed": 3, "where": "status = 'ok'"}
        page = get(address, "api/rows", asked=json.dumps(asked), start=20, count=30)
        assert page["listed"] == sum(row["status"] == "ok" for row in sky.rows)
        numbers = {str(row["object_id"]): number for number, row in enumerate(sky.rows)}
        for row in page["rows"]:
            status, body, _ = fetch(address, f"api/image?{urlencode({'part': row['part'], 'id': row['id']})}")
            assert status == 200
            middle = np.array(Image.open(io.BytesIO(body)))[32, 32].astype(int)
            assert np.abs(middle - color(numbers[row["id"]])).max() <= 6
        # 64 pixels of 0.4 arcsec.
        bar = get(address, "api/scale", part=row["part"], id=row["id"])["bar"]
        assert (bar["words"], bar["share"]) == ("10″", pytest.approx(10 / 25.6))
        assert get(address, "api/scale", part=row["part"], id="7")["bar"] is None
        first = page["rows"][0]
        given = {
            "part": first["part"],
            "id": first["id"],
            "answer": "CSS",
            "place": 20,
            "answer_shown": False,
        }
        status, body, _ = fetch(address, "api/label", "POST", {**given, "asked": asked})
        assert (status, json.loads(body)["labels"]) == (200, {"CSS": 1})
        again = get(address, "api/rows", asked=json.dumps(asked), start=20, count=1)
        assert again["rows"][0]["mine"] == "CSS"
        for wrong in ({"answer": "cigar"}, {"id": "7"}, {"place": "x"}):
            assert fetch(address, "api/label", "POST", {**given, "asked": asked, **wrong})[0] == 400
        for wrong in ({"order": "x"}, {"low": "x"}, {"where": "x >"}, {"boxes": [{"x": "ra"}]}, {"evil": 1}):
            assert (
                fetch(address, "api/rows?" + urlencode({"asked": json.dumps(wrong), "start": 0, "count": 1}))[
                    0
                ]
                == 400
            )
        answer = get(address, "api/sql", sql="SELECT object_id, 'nan'::DOUBLE FROM catalog LIMIT 1")
        assert answer["rows"][0] == [str(sky.rows[0]["object_id"]), None]
        exported = list(csv.DictReader(io.StringIO(fetch(address, "labels.csv")[1].decode())))
        said = json.loads((tmp_path / "labels" / "labels.jsonl").read_text())
        assert said["shown"]["asked"] == asked
        assert (said["who"], said["shown"]["model_id"], said["shown"]["place"]) == (
            "ada",
            first["model_id"],
            20,
        )
    (row,) = exported
    assert (row["object_id"], row["class"], row["answer_shown"]) == (first["id"], "CSS", "false")
    # What is written is what `ingest --labels` reads.
    out = tmp_path / "labels.csv"
    run = CliRunner().invoke(
        main, ["explore", str(sky.catalog), "--labels", str(tmp_path / "labels"), "--export", str(out)]
    )
    assert run.exit_code == 0, run.stderr
    read = read_labels(str(out))
    assert read.table.select(["id", "label"]).to_pylist() == [{"id": first["id"], "label": "CSS"}]
    assert not (tmp_path / "labels" / "_lease").exists()


def test_a_question_ends_with_whoever_asked_it(sky: Sky, tmp_path: Path) -> None:
    with serving(str(sky.catalog), tmp_path / "labels") as address:
        parts = urlsplit(address)
        endless = urlencode({"sql": "SELECT sum(i * i % 7) FROM range(10000000000000) numbers(i)"})
        with socket.create_connection((parts.hostname, parts.port)) as asking:
            asking.sendall(f"GET {parts.path}api/sql?{endless} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            asking.settimeout(0.5)
            with pytest.raises(TimeoutError):
                asking.recv(1)
        page = get(address, "api/rows", asked='{"order": "random"}', start=0, count=40)["rows"]
        # Who goes away while pictures are read takes them from nobody else.
        pictures = [f"api/image?{urlencode({'part': row['part'], 'id': row['id']})}" for row in page]
        for picture in pictures:
            with socket.create_connection((parts.hostname, parts.port)) as asking:
                asking.sendall(f"GET {parts.path}{picture} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert {fetch(address, picture)[0] for picture in pictures} == {200}


def test_tiles_of_one_name(tmp_path: Path) -> None:
    write_catalog(tmp_path / "parts", 2, 30)
    for order, part in zip((1, 2), sorted((tmp_path / "parts").iterdir()), strict=True):
        tile = tmp_path / f"published/dataset/Norder={order}/Dir=0/Npix=3.parquet"
        tile.parent.mkdir(parents=True)
        part.rename(tile)
    view = CatalogView(str(tmp_path / "published"))
    places = view.listing(Asked(order="random"))
    assert [row["object_id"] for row in view.rows(places)] == [place.object_id for place in places]
    assert len(places) == 60
    assert "published" in find_images(str(tmp_path / "published"), view.published).why_not


def test_classes_are_those_of_the_taxonomy() -> None:
    names = ("Barred: strong", "no bar", "Bar weak")
    for words in ((), ("a bar: long", "none of: these", "")):
        taxonomy = Taxonomy("bars", names, descriptions=words)
        columns = classes_in(catalog_schema(taxonomy, pa.int64(), [pa.field("p_value", pa.float32())]))
        assert columns == {name: probability_column(name) for name in names}


def test_ids_of_two_kinds(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 1, 20)
    write_catalog(tmp_path / "texts", 2, 20, seed=1, string_ids=True)
    for part in (tmp_path / "texts").iterdir():
        part.rename(tmp_path / "catalog" / part.name)
    view = CatalogView(str(tmp_path / "catalog"))
    places = view.listing(Asked(order="random"))
    assert [row["object_id"] for row in view.rows(places)] == [place.object_id for place in places]
    assert len(places) == 60


def test_the_choice_for_labeling(sky: Sky, tmp_path: Path) -> None:
    out = tmp_path / "chosen.csv"
    run = CliRunner().invoke(main, ["sample", str(sky.catalog), str(out), "--for-labelling", "61"])
    assert (run.exit_code, run.stdout.splitlines()[0].split(": ")[1]) == (
        0,
        "21 random, 21 uncertain, 19 diverse",
    )
    chosen = read_choice(str(out))
    assert len(set(chosen["object_id"].to_pylist())) == 61
    by_id = {str(row["object_id"]): row for row in sky.rows}
    reasons = list(zip(chosen["object_id"].to_pylist(), chosen["why"].to_pylist(), strict=True))
    assert all(by_id[one]["status"] == "ok" for one, _ in reasons)
    confidences = {why: [by_id[one]["confidence"] for one, of in reasons if of == why] for _, why in reasons}
    assert max(confidences["uncertain"]) < np.median(confidences["random"])
    # Not one reason after the other: who labels is not to know.
    assert len({why for _, why in reasons[:15]}) == 3
    other = tmp_path / "other.parquet"
    choose_for_labeling(str(sky.catalog), str(other), 61)
    assert read_choice(str(other)).equals(chosen)
    # Rare places are found: a draw would mostly miss the one.
    points = np.vstack([np.random.default_rng(0).normal(0, 0.01, (1000, 2)), [[5.0, 5.0]]])
    assert 1000 in spread(points, 3, np.random.default_rng(0))
    assert len(spread(np.zeros((9, 2)), 3, np.random.default_rng(0))) == 1

    with serving(str(sky.catalog), tmp_path / "labels", chosen) as address:
        page = get(address, "api/rows", asked='{"order": "chosen"}', start=0, count=100)
        assert [(row["id"], row["why"]) for row in page["rows"]] == reasons
        assert sum(get(address, "api/counts", asked="{}")["classes"].values()) == 61


def test_ids_that_are_text_and_catalogs_without_pictures(tmp_path: Path) -> None:
    def change(rows: pa.Table, index: int) -> pa.Table:
        names = pa.array([f"<i>'{index}-{n}" for n in range(len(rows))])
        return rows.set_column(0, rows.schema.field(0), names)

    catalog = tmp_path / "catalog"
    write_catalog(catalog, 2, 20, change=change, string_ids=True)
    with serving(str(catalog), tmp_path / "labels") as address:
        assert "--shards" in get(address, "api/facts")["no_pictures"]
        page = get(address, "api/rows", asked='{"order": "catalog"}', start=0, count=60)
        assert [row["id"] for row in page["rows"][:2]] == ["<i>'0-0", "<i>'0-1"]
        row = page["rows"][0]
        status, words, _ = fetch(address, f"api/image?{urlencode({'part': row['part'], 'id': row['id']})}")
        assert (status, b"--shards" in words) == (404, True)
        given = {"part": row["part"], "id": row["id"], "answer": "EO", "place": 0, "answer_shown": True}
        assert fetch(address, "api/label", "POST", {**given, "asked": {}})[0] == 200
        for labeled, count in (("yes", 1), ("no", 39)):
            asked = json.dumps({"order": "catalog", "labeled": labeled})
            assert get(address, "api/rows", asked=asked, start=0, count=60)["listed"] == count


def test_mistakes_are_one_line(sky: Sky, tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"galaxy": [1]}), other)
    ids = tmp_path / "ids.csv"
    ids.write_text("object_id\n7\n")
    catalog = str(sky.catalog)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        own = ["--labels", str(tmp_path / "labels")]
        cases = {
            "no catalog at": [str(tmp_path / "nowhere")],
            "no column 'object_id'": [str(other), *own],
            "choose another with --port": [catalog, *own, "--port", str(taken.getsockname()[1])],
            "no file or folder": [catalog, *own, "--shards", str(tmp_path / "nowhere")],
            "labels are kept on this machine": [catalog, "--labels", "s3://sky/labels"],
            "no object of the list (such as '7')": [catalog, *own, "--only", str(ids)],
            "no file": [catalog, *own, "--only", str(tmp_path / "nothing.csv")],
            "there is no label": [catalog, *own, "--export", str(tmp_path / "out.csv")],
            ".csv or .parquet": [catalog, *own, "--export", str(tmp_path / "out.txt")],
            "is there already": [catalog, *own, "--export", str(ids)],
        }
        with Lease(str(tmp_path / "held"), "hiwl explore", keep=False):
            result = CliRunner().invoke(main, ["explore", catalog, "--labels", str(tmp_path / "held")])
            assert (result.exit_code, "is being written by hiwl explore of" in result.stderr) == (2, True)
        for message, arguments in cases.items():
            result = CliRunner().invoke(main, ["explore", *arguments])
            assert result.exit_code == 2, (message, result.output)
            assert message in result.stderr, (message, result.stderr)
            assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not (tmp_path / "labels").exists()
    for wrong in (["a.html"], [str(ids)]):
        assert CliRunner().invoke(main, ["sample", catalog, *wrong, "--for-labelling", "9"]).exit_code == 2
    assert labels_folder("s3://sky/night/*.parquet") == os.path.abspath("night-labels")


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser(sky: Sky, tmp_path: Path) -> None:
    ready = "document.querySelectorAll('#grid li img').length > 0 && $('classes').children.length > 0"
    with (
        serving(str(sky.catalog), tmp_path / "labels") as address,
        open_browser(tmp_path / "chromium") as browser,
    ):
        for width, dark in ((390, True), (1280, False)):
            page = browser.open(address, width, dark)
            page.wait(ready)
            page.wait("[...document.images].every(image => image.complete)")
            page.wait("document.querySelectorAll('#grid .bar').length === state.rows.length")
            seen = page.look()
            assert (seen["overflow"], seen["wide"], seen["broken"]) == (0, [], []), width
            assert page.run("$('large').querySelector('.bar').textContent") == "10″"
            assert page.contrast()[0] >= 4.5, width
        page.wait("state.planes.sky.data !== null")
        # Filter: a class, by its box; then an area of the sky, drawn by the mouse.
        page.run("document.querySelector('#classes input[value=SPI]').click()")
        spirals = sum(row["label_map"] == "SPI" for row in sky.rows)
        page.wait(f"state.listed === {spirals}")
        page.run("$('sky').scrollIntoView({ block: 'center' })")
        box = page.run(
            "(b => [b.x, b.y, b.width, b.height])"
            "(document.querySelector('#sky canvas').getBoundingClientRect())"
        )
        page.drag((box[0] + 80, box[1] + 20), (box[0] + box[2] / 2, box[1] + box[3] / 2))
        page.wait(f"state.listed < {spirals} && !$('grid').classList.contains('busy')")
        inside = page.run("state.planes.sky.box")
        assert page.run("state.listed") == sum(
            row["label_map"] == "SPI"
            and row["ra"] is not None
            and inside["x0"] <= row["ra"] <= inside["x1"]
            and inside["y0"] <= row["dec"] <= inside["y1"]
            for row in sky.rows
        )
        # Label by keyboard, go on by itself, take one back.
        first = page.run("state.rows.slice(0, 3).map(row => row.id)")
        for key in ("3", "u", "5"):
            page.press(key)
        page.wait("state.rows[2].mine === 'SPI'")
        assert page.run("state.rows.slice(0, 3).map(row => row.mine)") == ["CSS", "unsure", "SPI"]
        assert page.run("state.current") == 3
        page.press("z")
        page.wait("state.rows[2].mine === null")
        assert page.run("state.current") == 2
        page.press("m")
        page.wait("!$('shown').checked && !$('facts').querySelector('dl')")
        page.press("4")
        page.wait("state.rows[2].mine === 'EO'")
        # Keys that are struck in a field are its text.
        page.run("$('where').focus()")
        page.press("1")
        assert page.run("[$('where').value, state.rows[3].mine]") == ["1", None]
        exported = page.run("fetch('labels.csv').then(r => r.text()).then(t => { window.table = t; }), 0")
        page.wait("window.table !== undefined")
        table = list(csv.DictReader(io.StringIO(page.run("window.table"))))
        assert [(row["object_id"], row["class"]) for row in table] == [(first[0], "CSS"), (first[2], "EO")]
        assert [row["answer_shown"] for row in table] == ["true", "false"], exported
        # Reload: what was labeled is there.
        page = browser.open(address, 1280)
        page.wait(ready)
        assert "3 labels of ada: CSS 1, EO 1, unsure 1" in page.run("$('labels').textContent")
        page.run("$('labeled').value = 'yes'; $('labeled').onchange()")
        page.wait("state.listed === 3")
        assert sorted(page.run("state.rows.map(row => row.mine)")) == ["CSS", "EO", "unsure"]
        # Those that are like one of them, by a key; the filters hold.
        like = page.run("state.rows[0].id")
        page.press("l")
        page.wait(f"state.asked.order === 'similar' && state.rows[0].id === '{like}'")
        assert page.run("[state.listed, $('order').selectedOptions[0].textContent]") == [
            3,
            f"most like {like}",
        ]
        page.run("$('labeled').value = 'all'; $('labeled').onchange()")
        page.wait(f"state.listed === {sum(row['label'] is not None for row in sky.rows)}")
        assert page.run("state.rows[0].id") == like
        page.press("ArrowRight")
        page.run("$('similar').click()")
        page.wait("state.asked.like.id === state.rows[0].id && state.rows[0].id !== '" + like + "'")
        page.run("$('clear').click()")
        page.wait("state.asked.order === 'uncertain'")
        page.run("$('where').value = 'lable = 1'; $('filters').requestSubmit()")
        page.wait("!$('error').hidden && $('error').textContent.includes('lable')")
        page.news()
        assert [url for url in page.requests if not url.startswith(address)] == []
        # The refused condition is the one thing that the console has.
        assert [message for message in page.messages if "lable" not in message] == []
