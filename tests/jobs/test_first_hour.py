"""What people get wrong in their first hour: each is a line with the mend, which works when it is typed."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from tests.drawings import draw_galaxy, write_labeled_shard

LABELS = {
    "good.csv": ["id,class", "{},SPI"],
    "semicolons.csv": ["id;class", "{};SPI"],
    "endings.csv": ["id,class", "{}.JPG,SPI"],
    "headless.csv": ["{},SPI"],
    "almost.csv": ["ID,Class", "{},SPI"],
    "lower.csv": ["id,class", "{},spi"],
    "own.csv": ["id,class", "{},barred"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images, labels, shards, and what is almost one of these; it is the current one."""
    (tmp_path / "images").mkdir()
    (tmp_path / "empty").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(draw_galaxy("SPI", number, size=32))
    for name, (*header, row) in LABELS.items():
        (tmp_path / name).write_text("\n".join([*header, *(row.format(number) for number in range(4))]))
    table = pq.read_table(write_labeled_shard(tmp_path / "shard.parquet", {"CRS": 2}))
    pq.write_table(
        table.rename_columns(["objid", "ra", "dec", "Image", "pixel_scale", "label"]), "almost.parquet"
    ) if monkeypatch.chdir(tmp_path) is None else None
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("ingest images out --labels headless.csv", "'0,SPI', which looks like an object"),
        ("ingest images out --labels almost.csv", "did you mean 'ID'? --labels-id-column ID"),
        ("ingest images out --labels lower.csv", "did you mean 'SPI'?; rename it with --map OLD=NEW"),
        ("ingest images out --labels own.csv", "name classes of your own (`hiwl taxonomy new`, --taxonomy)"),
        ("ingest image out", "no file or folder 'image'"),
        ("ingest empty out", "no image in"),
        ("classify galaxyzoo almost.parquet out", "did you mean 'objid'? --id-column objid"),
        (
            "classify galaxyzoo almost.parquet out --id-column objid",
            "did you mean 'Image'? --image-column Image",
        ),
        ("classify galaxyzoo images out", "only others such as '0.jpg'"),
        ("classify galaxyzoo shard.parquet out --carry labels", "did you mean 'label'?"),
        ("classify galaxy_zoo shard.parquet out", "in the box: galaxyzoo"),
        ("clasify galaxyzoo shard.parquet out", "no verb 'clasify': did you mean 'classify'?"),
        ("train --data a --val b --recipe demo --out run --set stage1.epoch=3", "did you mean 'epochs'?"),
    ],
)
def test_it_is_one_line_and_exit_code_2(command: str, expected: str) -> None:
    result = run(*command.split())
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert expected in line
    assert "Traceback" not in result.stderr
    assert not Path("out").exists()


@pytest.mark.usefixtures("ray_session", "here")
@pytest.mark.parametrize(
    "options",
    [
        "--labels good.csv",
        "--labels semicolons.csv",
        "--labels endings.csv",
        "--labels almost.csv --labels-id-column ID --labels-class-column Class",
        "--labels lower.csv --map spi=SPI",
        "--labels own.csv --map barred=SPI",
    ],
)
def test_the_mend_works(options: str) -> None:
    result = run("ingest", "images", "out", *options.split())
    assert result.exit_code == 0, result.output
    (shard,) = Path("out").glob("*.parquet")
    assert pq.read_table(shard, columns=["object_id", "label"]).to_pydict() == {
        "object_id": [0, 1, 2, 3],
        "label": ["SPI"] * 4,
    }
