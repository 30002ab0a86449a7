"""The report of a run: what it says is what the run's files say, and it is whole in one file."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from hiwl_core.bundle import load_bundle
from hiwl_core.methods import METHODS, method_name, method_overrides
from hiwl_core.recipe import load_recipe
from jobs.cli import main
from pipeline import storage
from pipeline.drift import drift
from pipeline.lease import Lease
from pipeline.pages.numbers import duration
from pipeline.querying.sample import sample
from pipeline.reporting.facts import run_facts, which_data
from pipeline.reporting.finished_run import read_run
from pipeline.reporting.report import report
from pipeline.shards.cutout_shards import list_shards
from pipeline.shards.fingerprints import fingerprint
from tests.browser import Browser, chromium, open_browser
from tests.conftest import TinyData
from tests.drawings import CLASSES
from tests.object_store import ObjectStore
from tests.page_reader import Reader


def hiwl(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, arguments)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def named_val(tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The validation galaxies under names that are markup, in a column of the survey's own."""
    (shard,) = Path(tiny_data.val).glob("*.parquet")
    table = pq.read_table(shard)
    names = [f'<b onload="x">&{one}</b>' for one in table["object_id"].to_pylist()]
    table = table.drop_columns("object_id").append_column("name", pa.array(names))
    folder = tmp_path_factory.mktemp("named")
    pq.write_table(table, folder / shard.name)
    return str(folder)


@pytest.fixture(scope="module")
def shown(tiny_run: Path, named_val: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the cascade."""
    out = tmp_path_factory.mktemp("reports") / "cascade"
    code, stdout, stderr = hiwl(
        "report", str(tiny_run), "--out", str(out), "--val", named_val, "--id-column", "name"
    )
    assert code == 0, stderr
    assert f"page: {out}/report.html" in stdout
    return out


@pytest.fixture(scope="module")
def page(shown: Path) -> Reader:
    return Reader((shown / "report.html").read_text())


@pytest.fixture(scope="module")
def catalog(shown: Path) -> pd.DataFrame:
    rows = pd.concat(map(pd.read_parquet, (shown / "evaluation" / "catalog").glob("*.parquet")))
    return rows.set_index("object_id")


def test_the_page_says_what_the_run_was(page: Reader, tiny_run: Path) -> None:
    bundle = load_bundle(tiny_run / "bundle")
    counts = bundle.provenance["class_counts"]
    rows = {row[0]: row[2:] for row in page.table("Class", "What it is")}
    assert rows == {
        **{name: [str(counts[name]), "10"] for name in CLASSES},
        "all": [str(sum(counts.values())), "50"],
    }
    facts = " ".join(page.text)
    # By epoch, which a run that was stopped and went on has all of.
    seconds = sum(
        pd.read_csv(tiny_run / f"{one}_epochs.csv")["seconds"].sum() for one in ("stage1", "stage2")
    )
    for words in (
        f"Model {bundle.model_id}",
        "hiwl (HIWL: hierarchy, weighted sampling after stage 1, label smoothing)",
        "140 galaxies",
        "Scored on 50 galaxies",
        f"torch {bundle.provenance['versions']['torch']}",
        "cpu float32, 1 worker",
        f"{duration(seconds)} for the epochs",
        "efficientnet_lite0 at 32 px",
    ):
        assert words in facts, words
    settings = {row[0]: row[1:] for row in page.table("Setting", "Stage 1", "Stage 2")}
    assert settings["Sampling"] == ["plain", "weighted"]
    assert settings["Backbone"] == ["efficientnet_lite0"]


def test_the_figures_are_those_of_the_evaluation(page: Reader, shown: Path) -> None:
    scores = json.loads((shown / "evaluation" / "evaluation.json").read_text())
    figures = {(row["class"], row["metric"]): row for row in scores["metrics"]}
    # Of the equally rare classes of a run the first; CSS is alone with twelve.
    for key in (("all", "accuracy"), ("average", "recall"), ("CSS", "recall")):
        figure = figures[key]
        assert f"{100 * figure['value']:.2f} %" in page.text
        assert f"95 % interval {100 * figure['low']:.2f} to {100 * figure['high']:.2f} %" in page.text
    matrix = [[int(cell.split()[0]) for cell in row[1:]] for row in page.table("true \\ called")]
    assert matrix == scores["confusion_matrix"]
    rows = {row[0]: row[1:] for row in page.table("Class", "Precision", "Recall", "F1")}
    assert rows["SPI"][1].split()[0] == f"{figures['SPI', 'recall']['value']:.4f}"
    assert rows["accuracy"][0].split()[0] == f"{figures['all', 'accuracy']['value']:.4f}"
    for place in np.ndindex(5, 5):
        cards = page.cards.get("cell-{}-{}-name".format(*place), [])
        assert len(cards) == min(matrix[place[0]][place[1]], 6)
        assert {(card[3], card[0]) for card in cards} <= {(CLASSES[place[0]], CLASSES[place[1]])}
    assert {"Stage 1 alone", "Stage 2 alone, on the galaxies that were routed right"} <= set(page.text)


def test_it_is_said_how_far_the_probabilities_can_be_trusted(
    page: Reader, shown: Path, catalog: pd.DataFrame
) -> None:
    scores = json.loads((shown / "evaluation" / "evaluation.json").read_text())
    # The shards of the page are not those of the run, as far as a fingerprint tells.
    assert scores["calibration"]["basis"] == "catalog"
    assert scores["calibration"]["words"] in page.text
    metrics = {row["metric"]: row for row in scores["probabilities"]}
    rows = {row[0]: row[1:] for row in page.table("Metric", "Before calibration", "After")}
    assert [cell.split()[0] for cell in rows["Brier score"]] == [
        f"{metrics['brier'][side]:.4f}" for side in ("before", "after")
    ]
    right = (catalog["label_map"] == catalog["true_label"]).mean()
    assert metrics["accuracy"]["after"] == pytest.approx(right, abs=1e-6)
    assert scores["metrics_label_map"][-1]["value"] == pytest.approx(right, abs=1e-6)
    in_set = [
        truth in classes.split("|")
        for truth, classes in zip(catalog["true_label"], catalog["class_set"], strict=True)
    ]
    sets = {row[0]: row[1:] for row in page.table("Class", "Coverage")}
    assert sets["all"][0].split()[0] == f"{sum(in_set) / 50:.4f}"
    assert sets["all"][1:] == [f"{catalog['class_set'].str.split('|').str.len().mean():.2f}", "50"]
    assert 'aria-label="Reliability of CSS, calibration error ' in (shown / "report.html").read_text()
    for name in ("probabilities.csv", "reliability.csv", "coverage.csv", "metrics_label_map.csv"):
        assert page.files[name] == (shown / "evaluation" / name).read_bytes()


def test_the_chosen_pair_and_the_kept_epochs_are_marked(page: Reader, tiny_run: Path) -> None:
    pairs = pd.read_csv(tiny_run / "pairs.csv")
    rows = page.table("stage 1", "stage 2")
    assert [row[:2] for row in rows] == pairs[["stage1_epoch", "stage2_epoch"]].astype(
        str
    ).to_numpy().tolist()
    assert [row[2] for row in rows] == ["chosen", *[""] * (len(pairs) - 1)]
    assert [row[3] for row in rows] == [f"{value:.4f}" for value in pairs["accuracy"]]
    tables = [rows[1:] for rows in page.tables if rows[0][0] == "epoch"]
    for stage, rows in zip(("stage1", "stage2"), tables, strict=True):
        kept = [one["epoch"] for one in json.loads((tiny_run / f"{stage}.json").read_text())["best"]]
        chosen = pairs[f"{stage}_epoch"].iloc[0]
        marks = {int(row[0]): row[1] for row in rows}
        assert {epoch for epoch, mark in marks.items() if mark} == set(kept)
        assert [epoch for epoch, mark in marks.items() if mark == "chosen"] == [chosen]


def test_each_file_on_the_page_is_the_file_beside_it(page: Reader, shown: Path, tiny_run: Path) -> None:
    beside = {
        path.name: path.read_bytes()
        for folder in ("tables", "figures")
        for path in (shown / folder).iterdir()
    }
    # An SVG file of images is as large as the PNG again.
    assert page.files == {name: content for name, content in beside.items() if name != "grad_cam.svg"}
    for name in ("stage1_epochs.csv", "stage2_epochs.csv", "pairs.csv"):
        assert page.files[name] == (tiny_run / name).read_bytes()
    for name in ("confusion_matrix.csv", "metrics.csv", "stages.csv"):
        assert page.files[name] == (shown / "evaluation" / name).read_bytes()
    for figure in (
        "stage1_learning_curves",
        "stage2_learning_curves",
        "grad_cam",
        "feature_map",
        "confusion_matrix",
        "reliability",
    ):
        Image.open(io.BytesIO(page.files[f"{figure}.png"])).load()
        assert b"<svg" in beside[f"{figure}.svg"]
    points = pd.read_csv(io.BytesIO(page.files["feature_map.csv"]))
    assert len(points) == 50
    assert not points[["x", "y"]].isna().to_numpy().any()
    assert len((shown / "report.html").read_bytes()) < 4e6


def test_mistakes_and_uncertain_galaxies_in_order_with_what_both_stages_said(
    page: Reader, catalog: pd.DataFrame
) -> None:
    wrong = catalog[catalog["label"] != catalog["true_label"]]
    expected = {
        "mistakes": wrong["confidence"].nlargest(24).tolist(),
        "unsure": catalog["confidence"].nsmallest(24).tolist(),
    }
    seen = set()
    for section, confidences in expected.items():
        cards = page.cards[section]
        assert [card[1] for card in cards] == [f"{one:.3f}" for one in confidences]
        for card in cards:
            galaxy = catalog.loc[next(text for text in card if text.startswith("<b"))]
            assert card[0] == galaxy["label"]
            assert card[card.index("people say") + 1] == galaxy["true_label"]
            for name in CLASSES:
                assert card[card.index(name, 4) + 1] == f"{galaxy['p_' + name.lower()]:.3f}"
            assert f"stage 1: CSS+EO {galaxy['p_stage1_combined']:.3f}" in card
            css = galaxy["p_stage2_css"]
            said = "stage 2 did not run" if pd.isna(css) else f"stage 2: CSS {css:.3f}, EO {1 - css:.3f}"
            assert said in card
            seen.add(pd.isna(css))
    assert seen == {True, False}
    assert list(pd.read_csv(io.BytesIO(page.files["mistakes.csv"]))["object_id"]) == [
        next(text for text in card if text.startswith("<b")) for card in page.cards["mistakes"]
    ]


def test_the_page_is_whole_and_in_order(page: Reader, shown: Path) -> None:
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    # Names that are markup stay words.
    assert "<b onload" not in (shown / "report.html").read_text()
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert len(page.links) == 3 * (sum(map(len, page.cards.values())) + 15)
    for _, image in page.images:
        if b"<svg" not in image[:2000]:
            Image.open(io.BytesIO(image)).load()


def test_a_second_report_is_the_first(shown: Path, tiny_run: Path, named_val: str) -> None:
    before = {
        path: path.read_bytes() for path in shown.rglob("*") if path.suffix in (".html", ".csv", ".svg")
    }
    (part,) = (shown / "evaluation" / "catalog").glob("*.parquet")
    made = part.stat().st_mtime_ns
    (shown / "tables" / "pairs.csv").unlink()
    report(str(tiny_run), str(shown), named_val, {"id": "name"})
    assert {path: path.read_bytes() for path in before} == before
    assert part.stat().st_mtime_ns == made


def test_a_flat_run_has_one_stage_and_its_data_are_found_by_themselves(
    flat_run: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(flat_run, run)
    code, _, stderr = hiwl("report", str(run))
    assert code == 0, stderr
    page = Reader((run / "report" / "report.html").read_text())
    text = " ".join(page.text)
    assert "stage 2" not in text.lower()
    assert "stage 1" not in text.lower()
    assert "The three candidates" in text
    assert f"50 galaxies of {tiny_data.val}" in text
    assert "These are the galaxies that the epochs were chosen by" in text
    # Only what its network says is there to be judged.
    assert "This model is not calibrated" in text
    assert {"probabilities.csv", "reliability.csv", "reliability.svg"} <= set(page.files)
    assert not {"coverage.csv", "thresholds.csv"} & set(page.files)
    assert f"all 50 galaxies of the validation shards, {tiny_data.val}" in text
    candidates = next(rows[1:] for rows in page.tables if rows[0][0] == "epoch" and "mean recall" in rows[0])
    assert [row[:2] for row in candidates] == [
        [str(epoch), "" if rank else "chosen"]
        for rank, epoch in enumerate(pd.read_csv(flat_run / "pairs.csv")["stage1_epoch"])
    ]
    assert "stages.csv" not in page.files
    assert {name for name in page.files if name.endswith("learning_curves.svg")} == {
        "stage1_learning_curves.svg"
    }
    assert len(page.cards["unsure"]) == 24


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_known_by_its_switches(method: str) -> None:
    assert method_name(load_recipe("demo", method_overrides(method))) == method


def test_it_is_said_what_the_scored_galaxies_were_to_the_run(tiny_run: Path, tiny_data: TinyData) -> None:
    run = read_run(str(tiny_run))
    train, val = (
        [fingerprint(shard) for shard in list_shards(shards)] for shards in (tiny_data.train, tiny_data.val)
    )
    assert "was trained on" in which_data(run, 90, [train[0], "other"])
    assert which_data(run, 50, val).startswith("These are the galaxies that the epochs were chosen by")
    assert which_data(run, 60, [*val, "other"]).startswith("Some of them")
    assert which_data(run, 10, ["other"]).startswith("These shards are not those of the training")


def test_a_sample_that_was_chosen_by_is_not_all_that_is_scored(tiny_run: Path) -> None:
    run = read_run(str(tiny_run))
    val = run.fingerprints["val"]
    of_25, of_900 = (
        replace(run, recipe=run.recipe.model_copy(update={"val_galaxies": count, "train_galaxies": count}))
        for count in (25, 900)
    )
    assert which_data(of_25, 50, val).startswith("Some of them are galaxies that the epochs were chosen by")
    assert "a stratified sample of 25 of the 50 galaxies" in run_facts(of_25, 50, val)["Selected by"]
    # More are not there.
    assert which_data(of_900, 50, val) == which_data(run, 50, val)
    assert run_facts(of_900, 50, val) == run_facts(run, 50, val)


def test_mistakes_are_one_line(shown: Path, tiny_run: Path, tiny_data: TinyData, tmp_path: Path) -> None:
    begun, silent, other = (tmp_path / name for name in ("begun", "silent", "other"))
    for run in (begun, silent, other):
        shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("stage1", "stage2"))
    shutil.rmtree(begun / "bundle")
    (begun / "stage2.json").unlink()
    (silent / "sources.json").unlink()
    described = json.loads((other / "bundle" / "bundle.json").read_text())
    (other / "bundle" / "bundle.json").write_text(json.dumps({**described, "views": 2}))
    mine = tmp_path / "mine"
    (mine / "tables").mkdir(parents=True)
    out = str(tmp_path / "out")
    cases = {
        "no training run at": [str(tmp_path / "nowhere"), "--out", out],
        "is not complete: stage2 is not trained; start the same `hiwl train` again": [
            str(begun),
            "--out",
            out,
        ],
        "did not record where its validation shards are: name them with --val": [str(silent), "--out", out],
        "tables was not made by `hiwl report`": [str(tiny_run), "--out", str(mine)],
        "holds the report of another model": [str(other), "--out", str(shown)],
        "no file or folder": [str(tiny_run), "--out", out, "--val", str(tmp_path / "nowhere")],
        "no column 'klass' in": [str(tiny_run), "--out", out, "--label-column", "klass"],
    }
    for message, arguments in cases.items():
        code, stdout, stderr = hiwl("report", *arguments)
        assert (code, stdout) == (2, ""), (message, stderr)
        assert message in stderr, (message, stderr)
        assert len(stderr.splitlines()) == 1, stderr
    with Lease(out, "hiwl report", keep=False):
        code, _, stderr = hiwl("report", str(tiny_run), "--out", out)
    assert (code, len(stderr.splitlines())) == (2, 1)
    assert f"{out} is being written by hiwl report of " in stderr
    assert not Path(out).exists()
    assert {path.name for path in mine.rglob("*")} == {"tables"}


@pytest.mark.parametrize("package", ["matplotlib", "sklearn", "pytorch_grad_cam"])
def test_without_the_packages_that_draw_nothing_begins(
    package: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    code, _, stderr = hiwl("report", str(tiny_run), "--out", str(tmp_path / "out"))
    assert code == 2
    assert "pip install 'hiwl[figures]'" in stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_run_shards_and_report_in_object_storage(
    ray_session: None, flat_run: Path, tiny_data: TinyData, object_store: ObjectStore
) -> None:
    url = f"{object_store.url}/report"
    (shard,) = Path(tiny_data.val).glob("*.parquet")
    storage.write_bytes(f"{url}/val/{shard.name}", shard.read_bytes())
    for path in (*flat_run.glob("*.*"), *(flat_run / "bundle").iterdir()):
        storage.write_bytes(f"{url}/run/{path.relative_to(flat_run)}", path.read_bytes())
    made = report(f"{url}/run", f"{url}/shown", f"{url}/val")
    page = Reader(storage.read_bytes(made.page).decode())
    assert made.page == f"{url}/shown/report.html"
    assert {
        f"{url}/shown/{name}": storage.exists(f"{url}/shown/{name}") for name in made.files
    } == dict.fromkeys((f"{url}/shown/{name}" for name in made.files), True)
    assert len(page.cards["unsure"]) == 24


@pytest.fixture(scope="module")
def pages(shown: Path) -> dict[str, Path]:
    """All pages that are made with the same pieces."""
    catalog = str(shown / "evaluation" / "catalog")
    sample(catalog, str(shown / "gallery.html"))
    drift(catalog, reference=catalog, out=str(shown / "drift.html"))
    return {
        "report": shown / "report.html",
        "evaluation": shown / "evaluation" / "evaluation.html",
        "gallery": shown / "gallery.html",
        "drift": shown / "drift.html",
    }


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")
def test_pages_in_a_browser(pages: dict[str, Path], tmp_path: Path) -> None:
    with open_browser(tmp_path) as browser:
        for name, path in pages.items():
            for width, dark in ((390, False), (1280, True), (390, True), (1280, False)):
                opened = browser.open(path, width, dark)
                case: Any = (name, width, dark)
                assert opened.messages == [], case
                assert opened.requests == [path.resolve().as_uri()], case
                seen = opened.look()
                assert (seen["overflow"], seen["wide"], seen["clipped"], seen["broken"]) == (0, [], [], []), (
                    case
                )
                assert seen["images"] or name == "drift", case
                ratio, where = opened.contrast()
                assert ratio >= 4.5, (case, where)
        look_at_a_confusion(browser, pages["report"])
        look_at_bars(browser, pages["gallery"])


def look_at_a_confusion(browser: Browser, path: Path) -> None:
    """By keyboard alone: to the last cell with galaxies, into it, and to the first link of its first card."""
    opened = browser.open(path, 390)
    shown = "[...document.querySelectorAll('.cell')].filter(e => e.checkVisibility()).map(e => e.id)"
    first = opened.run("document.querySelector('.cell.first').id")
    assert opened.run(shown) == [first]
    opened.run("[...document.querySelectorAll('.matrix a')].at(-2).focus()")
    opened.press("Tab", windowsVirtualKeyCode=9)
    style = "(style => [style.outlineStyle, style.outlineWidth])(getComputedStyle(document.activeElement))"
    assert opened.run(style) == ["solid", "3px"]
    chosen = opened.run("document.activeElement.hash").removeprefix("#")
    opened.press("Enter", windowsVirtualKeyCode=13, text="\r")
    opened.wait(f"location.hash === '#{chosen}'")
    assert opened.run(shown) == [chosen] != [first]
    assert opened.look()["overflow"] == 0
    opened.press("Tab", windowsVirtualKeyCode=9)
    assert opened.run("document.activeElement.closest('.cell').id") == chosen
    assert opened.run("document.activeElement.href").startswith("https://www.legacysurvey.org/viewer?ra=")
    # On paper, of a reader by night: dark on white, and all mistakes are there.
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.call("Emulation.setEmulatedMedia", opened.session, media="print", features=dark)
    assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    wrong = opened.run("[...document.querySelectorAll('.cell:not(.right)')].map(e => e.id)")
    assert opened.run(shown) == wrong


def look_at_bars(browser: Browser, path: Path) -> None:
    """The drawings have 80 pixels of 0.4 arcsec: ten arcsec are 10 / 32 of a side."""
    opened = browser.open(path, 1280)
    wide = "e => e.getBoundingClientRect().width"
    shares = opened.run(
        f"[...document.querySelectorAll('.bar')].map(e => ({wide})(e) / ({wide})(e.parentElement))"
    )
    assert len(shares) == 50
    assert all(abs(share - 10 / 32) < 0.005 for share in shares)
