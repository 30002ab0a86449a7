import math
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from hiwl_core.decoding import Cutout
from hiwl_core.errors import UserError
from jobs.options import VerbCommand, column_options, scale_options
from pipeline.shards.cutout_shards import Columns, check_columns, iter_rows
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale

COLUMNS = Columns(pixel_scale="pixscale")


@pytest.fixture
def shard(tmp_path: Path) -> str:
    table = pa.table(
        {
            "object_id": range(5),
            "image": [b"a", b"b", None, b"d", b"e"],
            "pixscale": [0.25, 0.25, 0.25, None, math.nan],
            "petroR90_r": pa.array([10.0, None, 5.0, 20.0, 20.0], pa.float32()),
            "name": ["x"] * 5,
        }
    )
    pq.write_table(table, tmp_path / "s.parquet")
    return str(tmp_path / "s.parquet")


def cutouts(shard: str, scale: WantedScale) -> list[bytes | Cutout | None]:
    (table,) = iter_rows(shard, COLUMNS, ["object_id", "image", *scale.wanted], scale.carry)
    return scale.cutouts(table)


def test_nothing_asked_is_nothing_changed(shard: str) -> None:
    assert cutouts(shard, AS_IT_IS) == [b"a", b"b", None, b"d", b"e"]


def test_one_scale_for_all(shard: str) -> None:
    assert cutouts(shard, WantedScale(0.5)) == [
        Cutout(b"a", 0.25, 0.5),
        Cutout(b"b", 0.25, 0.5),
        Cutout(None, 0.25, 0.5),
        Cutout(b"d", None, 0.5),
        Cutout(b"e", None, 0.5),
    ]


def test_each_galaxy_its_own_scale(shard: str) -> None:
    got = cutouts(shard, WantedScale(column="petroR90_r", factor=0.02))
    assert [cutout.wanted_scale for cutout in got] == pytest.approx(
        [0.2, math.nan, 0.1, 0.4, 0.4], nan_ok=True
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"value": 0.0}, "--scale 0.0: a positive number"),
        ({"value": math.nan}, "--scale nan: a positive number"),
        ({"column": "r", "factor": -1.0}, "--scale-factor -1.0: a positive number"),
        ({"value": 1.0, "column": "r"}, "one scale for all, or one for each"),
        ({"factor": 2.0}, "--scale-factor 2.0: name its column"),
    ],
)
def test_mistakes(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        WantedScale(**settings)  # type: ignore[arg-type]


def test_the_column_is_checked_before_any_work(shard: str) -> None:
    check_columns([shard], COLUMNS, ["image"], scale=WantedScale(column="petroR90_r"))
    with pytest.raises(UserError, match=r"no column 'R90' in .*it has object_id.*see --scale-column"):
        check_columns([shard], COLUMNS, ["image"], scale=WantedScale(column="R90"))
    with pytest.raises(UserError, match=r"column 'name' in .* is string: numbers are wanted"):
        check_columns([shard], COLUMNS, ["image"], scale=WantedScale(column="name"))


def test_the_options_of_the_command_line() -> None:
    @click.command(cls=VerbCommand)
    @column_options
    @scale_options
    def verb(columns: Columns, scale: WantedScale) -> None:
        click.echo(f"{columns.pixel_scale} {scale}")

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(verb, arguments)
        return result.exit_code, result.output.strip()

    assert run() == (0, f"pixel_scale {AS_IT_IS}")
    assert run("--scale", "0.2", "--pixel-scale-column", "s") == (0, f"s {WantedScale(0.2)}")
    assert run("--scale-column", "r", "--scale-factor", "0.02") == (
        0,
        f"pixel_scale {WantedScale(None, 'r', 0.02)}",
    )
    assert run("--scale-from", "r") == run("--scale-column", "r", "--scale-factor", "0.02")
    for arguments in (
        ("--scale", "0"),
        ("--scale", "1", "--scale-column", "r"),
        ("--scale-factor", "1"),
        ("--scale-from", "r", "--scale-factor", "1"),
        ("--scale-from", "r", "--scale", "1"),
    ):
        code, words = run(*arguments)
        assert code == 2
        assert words.startswith("Error: --scale")
