"""``hiwl ingest`` from the command line: its report, and each mistake as one line before Ray starts."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from click.testing import CliRunner, Result
from PIL import Image

from jobs.ingest import main


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in range(100, 112):
        (folder / f"{name}.jpg").write_bytes(jpeg())
    return folder


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((16, 16), 50).save(buffer, "JPEG")
    return buffer.getvalue()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_report(images: Path, tmp_path: Path) -> None:
    (images / "100.jpg").write_bytes(b"text")
    rows = [f"{name},EO,{'train' if name < 110 else 'val'}" for name in range(100, 111)]
    rows += [f"{name},CSS,train" for name in range(200, 215)]
    table = write(images / "labels.csv", "\n".join(["GalaxyID,class,split", *rows]))
    result = run(images, tmp_path / "out", "--labels", table)
    assert result.exit_code == 0, result.output
    assert "11 rows in 3 shards" in result.stdout
    assert "rejects: 1 images, 15 labels without an image" in result.stdout
    assert "without a label: 1 kept, 0 left out" in result.stdout
    assert "other files in the source: 1" in result.stdout
    assert f"next: hiwl train --data '{tmp_path}/out/train-*.parquet' --val" in result.stdout
    errors = [line for line in result.stderr.splitlines() if not line.startswith("ingesting: ")]
    assert errors[0] == f"rejected: 100: not a JPEG, PNG or FITS image ({images}/100.jpg)"
    assert sum(line.startswith("rejected: ") for line in errors) == 10
    assert "... and 6 more" in result.stderr
    again = run(images, tmp_path / "out", "--labels", table)
    assert "3 of them from an earlier run" in again.stdout


def test_a_split_of_ones_own(images: Path, tmp_path: Path) -> None:
    rows = [f"{name},EO,{name // 4}" for name in range(100, 111)]
    table = write(images / "labels.csv", "\n".join(["GalaxyID,class,field", *rows]))
    command = (images, tmp_path / "out", "--labels", table, "--split", "2:1", "--group-by", "field")
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "12 rows in 3 shards" in result.stdout
    fields = {}
    for part in ("train", "val"):
        (shard,) = (tmp_path / "out").glob(f"{part}-*.parquet")
        fields[part] = {name // 4 for name in pq.read_table(shard)["object_id"].to_pylist()}
    assert not fields["train"] & fields["val"]
    assert "3 of them from an earlier run" in run(*command).stdout
    other = run(*command, "--seed", "1")
    assert other.exit_code == 2
    assert "--seed" in other.stderr


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("GalaxyID,class,split\n100,EO,train\n", ["--split", "8:1:1"], "has a column 'split' already"),
        ("GalaxyID,class\n100,EO\n", ["--split", "8:1:1"], "1 objects with a class are too few for 3 parts"),
        ("GalaxyID,class\n100,EO\n", ["--split", "1:1", "--group-by", "x"], "no column 'x' in"),
        ("GalaxyID,class\n100,EO\n", ["--split", "1:1", "--group-by", "sky"], "no columns ra and dec"),
        ("GalaxyID,class\n100,EO\n", ["--group-by", "x"], "give --split 8:1:1 too"),
        ("GalaxyID,class\n100,EO\n", ["--split", "8"], "write shares such as 8:1:1"),
    ],
)
def test_mistakes_in_the_split(
    images: Path, tmp_path: Path, content: str, options: list[str], expected: str
) -> None:
    table = write(images / "labels.csv", content)
    assert expected in error_of(run(images, tmp_path / "out", "--labels", table, *options))
    assert not (tmp_path / "out").exists()


def error_of(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistakes are found before Ray starts."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "remote", refuse)


LABELS = {
    "missing class": ("GalaxyID,kind\n100,EO\n", "--labels-class-column"),
    "missing id": ("name,class\n100,EO\n", "--labels-id-column"),
    "unknown class": ("GalaxyID,class\n100,ELLIPTICAL\n", "'ELLIPTICAL'"),
    "duplicate": ("GalaxyID,class\n100,EO\n101,EO\n100,CSS\n", "'100'"),
    "float id": ("GalaxyID,class\n100,EO\n1.23e17,EO\n", "1.23e17"),
    "no id": ("GalaxyID,class\n100,EO\n,EO\n", "row 2"),
    "other objects": ("GalaxyID,class\n9100,EO\n", "belong together"),
    "no split": ("GalaxyID,class,split\n100,EO,train\n101,EO,\n", "'101'"),
    "bad split": ("GalaxyID,class,split\n100,EO,a/b\n", "'a/b'"),
    "bad position": ("GalaxyID,class,ra\n100,EO,12h\n", "'12h'"),
    "ragged": ("GalaxyID,class\n100,EO,3\n", "not a CSV"),
    "empty": ("", "labels.csv"),
}


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("case", LABELS)
def test_mistakes_in_the_labels(images: Path, tmp_path: Path, case: str) -> None:
    content, expected = LABELS[case]
    table = write(tmp_path / "labels.csv", content)
    message = error_of(run(images, tmp_path / "out", "--labels", table))
    assert expected in message
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_ray")
def test_mistakes_in_the_source(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "nowhere" in error_of(run(tmp_path / "nowhere", out))
    assert "nowhere.csv" in error_of(run(images, out, "--labels", tmp_path / "nowhere.csv"))
    assert "nowhere.parquet" in error_of(run(images, out, "--labels", tmp_path / "nowhere.parquet"))
    (tmp_path / "empty").mkdir()
    assert "no image" in error_of(run(tmp_path / "empty", out))
    assert "no image" in error_of(run(tmp_path / "*.gif", out))
    assert "no image" in error_of(run(write(tmp_path / "a.txt", "x"), out))
    assert "broken zip" in error_of(run(write(tmp_path / "bad.zip", "PK no"), out))
    assert "'redshift'" in error_of(run(images, out, "--carry", "redshift"))
    assert "already" in error_of(run(images, out, "--carry", "ra"))
    assert "where the source is" in error_of(run(images, images))
    assert "where the source is" in error_of(run(f"file://{images}", tmp_path))
    assert "--name" in error_of(run(images, out, "--name", "_x/y"))
    table = write(tmp_path / "l.csv", "GalaxyID,class\n100,\n")
    assert "--drop-unlabeled" in error_of(run(images, out, "--labels", table, "--drop-unlabeled"))
    (images / "deep").mkdir()
    (images / "deep" / "103.png").write_bytes(jpeg())
    assert "'103'" in error_of(run(images, out))


@pytest.mark.usefixtures("no_ray")
def test_mistakes_in_bands(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "needs --recipe NAME" in error_of(run(images, out, "--bands", "g,r,i"))
    assert "lacks 'i'" in error_of(run(images, out, "--bands", "g,r,z", "--recipe", "demo"))
    for bands in ("g,r,,i", "g,r,G,i", ""):
        assert "write different names" in error_of(run(images, out, "--bands", bands, "--recipe", "demo"))
    assert "1234-g.fits" in error_of(run(images, out, "--bands", "g,r,i", "--recipe", "demo"))
    assert "no recipe 'nope'" in error_of(run(images, out, "--recipe", "nope"))
    (tmp_path / "tars").mkdir()
    write(tmp_path / "tars" / "sky-000.tar", "")
    assert "are shards already" in error_of(run(tmp_path / "tars", out))
    assert not out.exists()


@pytest.mark.usefixtures("no_ray")
def test_mistakes_in_parquet(tmp_path: Path) -> None:
    def save(**columns: object) -> Path:
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        return tmp_path / "t.parquet"

    out, one = tmp_path / "out", [jpeg()]
    assert "--image-column" in error_of(run(save(object_id=[1], jpeg=one), out))
    assert "--id-column" in error_of(run(save(objid=[1], image=one), out))
    assert "integers or strings" in error_of(run(save(object_id=[1e17], image=one), out))
    assert "--image-column" in error_of(run(save(object_id=[1], image=["a.jpg"]), out))
    assert "'X'" in error_of(run(save(object_id=[1], image=one, label=["X"]), out))
    assert "--label-column" in error_of(run(save(object_id=[1], image=one, label=[3]), out))
    assert "string" in error_of(run(save(object_id=[1], image=one, ra=["12h"]), out))
    assert "'7'" in error_of(run(save(object_id=[7, 7], image=one * 2), out))
    assert "row 2" in error_of(run(save(object_id=[7, None], image=one * 2), out))
    nothing = {"object_id": pa.array([], pa.int64()), "image": pa.array([], pa.binary())}
    assert "no row" in error_of(run(save(**nothing), out))
    assert "not a Parquet" in error_of(run(write(tmp_path / "t.parquet", "text"), out))
    out.mkdir()
    pq.write_table(pa.table({"a": [1]}), out / "other.parquet")
    assert "other Parquet files" in error_of(run(save(object_id=[1], image=one), out))


def test_help_has_examples() -> None:
    assert "hiwl ingest images data --labels classes.csv" in run("--help").output
