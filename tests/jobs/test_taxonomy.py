"""Classes of one's own: a file of them is proposed, and folders or labels of any names are read by it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from hiwl_core.errors import UserError
from hiwl_core.recipe import load_recipe
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy
from hiwl_core.taxonomy_file import read_taxonomy, taxonomy_overrides
from jobs.cli import main
from tests.drawings import draw_galaxy

FOLDERS = {"barred": 6, "plain disk": 9, "ring": 3}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder a class, and files of the same names in each."""
    for name, count in FOLDERS.items():
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number}.jpg").write_bytes(draw_galaxy("SPI", number, size=40))
    return tmp_path / "images"


def test_from_folders_to_shards(images: Path, tmp_path: Path) -> None:
    own = tmp_path / "disks.toml"
    made = run("taxonomy", "new", images, "--out", own)
    assert made.exit_code == 0, made.output
    assert "3 classes, 1 stages" in made.stdout
    assert f"next: hiwl ingest {images} data --class-folders --taxonomy {own} --split 8:1:1" in made.stdout
    assert read_taxonomy(str(own)) == Taxonomy("disks", tuple(FOLDERS))
    assert "9 objects" in own.read_text()
    assert run("taxonomy", "new", images, "--out", own).exit_code == 2

    command = ["ingest", images, tmp_path / "data", "--class-folders", "--split", "2:1"]
    refused = run(*command)
    assert refused.exit_code == 2
    assert "unknown class 'barred', 'plain disk', 'ring'" in refused.stderr
    assert "`hiwl taxonomy new`, --taxonomy" in refused.stderr
    packed = run(*command, "--taxonomy", own, "--map", "ring=barred")
    assert packed.exit_code == 0, packed.output
    assert "the object ids are CLASS/NAME" in packed.stderr
    assert f"--taxonomy {own} --out run" in packed.stdout
    rows = [row for path in (tmp_path / "data").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    labels = {row["object_id"]: row["label"] for row in rows}
    assert len(labels) == 18
    assert labels["plain disk/0"] == "plain disk"
    assert labels["ring/2"] == "barred"
    train = pq.read_table(next((tmp_path / "data").glob("train-*")))["label"].to_pylist()
    assert (train.count("barred"), train.count("plain disk")) == (6, 6)


def test_the_two_classes_that_a_model_confuses_most_get_a_stage(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("id,class\n1,a\n2,b\n3,c\n4,a\n5,\n")
    confusion = tmp_path / "confusion_matrix.csv"
    confusion.write_text("true,c,b,a\na,9,1,90\nb,40,60,0\nc,80,10,10\n")
    out = tmp_path / "abc.toml"
    made = run("taxonomy", "new", labels, "--out", out, "--confusion", confusion)
    assert made.exit_code == 0, made.output
    taxonomy = read_taxonomy(str(out))
    assert (taxonomy.classes, taxonomy.group("stage2").members) == (("a", "b", "c"), ("b", "c"))
    assert load_recipe("demo", taxonomy_overrides(taxonomy)).taxonomy == taxonomy


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("classes = 3", "name: Field required"),
        (
            "name = 'x'\nclasses = ['a', 'b']\ncolour = 1",
            "colour: Extra inputs are not permitted; its keys are",
        ),
        ("name = ", "is not TOML"),
        (
            "name = 'x'\nclasses = ['a b', 'a-b']",
            "the column of 'a-b' would be 'p_a_b', as for 'a b'",
        ),
        ("name = 'x'\nclasses = ['a', '渦']", "the column of '渦' would be 'p_', of which nothing"),
    ],
)
def test_what_is_no_taxonomy_is_said(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "own.toml").write_text(content)
    with pytest.raises(UserError, match=expected):
        read_taxonomy(str(tmp_path / "own.toml"))


def test_without_a_file_it_is_galaxy_zoos() -> None:
    assert read_taxonomy(None) == GALAXY_ZOO
    with pytest.raises(UserError, match="`hiwl taxonomy new LABELS` proposes one"):
        read_taxonomy("nowhere.toml")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--map", "a"], "such as cigar=CSS"),
        (["--class-folders", "--labels", "x.csv"], "leave it out, or --labels"),
        (["--taxonomy", "nowhere.toml"], "no taxonomy file 'nowhere.toml'"),
    ],
)
def test_mistakes_are_one_line(images: Path, tmp_path: Path, options: list[str], expected: str) -> None:
    result = run("ingest", images, tmp_path / "out", *options)
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1
