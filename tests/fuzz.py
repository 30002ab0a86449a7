"""Files that went wrong, thousands of them, through every reader.

python -m tests.fuzz --inputs 20000 [--seed 0] [--keep FOLDER]

No file may end the process, raise anything but our own errors, take more than 5 s of a core or 1 GB of memory
or say a word on the terminal. Of a FITS image that is read without astropy all must be as astropy has it.
Inputs are made from their number and the seed alone; those that go wrong are kept in FOLDER. A process that
dies, or hangs, is a fault of the input that it was at, and another one goes on behind it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from hiwl_core.cutouts import EvalTransform, Preprocessing, read_cutout
from hiwl_core.errors import UserError
from hiwl_core.fits_cutouts import fits_position, rgb_from_bands
from hiwl_core.fits_headers import card, sky_of
from hiwl_core.plain_fits import plain_images
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import STATUSES, UnreadableCutout
from pipeline.cutouts.positions import PositionColumns, read_positions
from pipeline.cutouts.tile_headers import Wanted, describe_files
from pipeline.cutouts.tiles import TilePixels, join_tiles
from pipeline.ingestion.images import pack_image
from pipeline.ingestion.labels import read_labels
from pipeline.shards.cutout_shards import Columns, check_columns, iter_rows
from pipeline.shards.shard_groups import SHARD_DAMAGE
from tests.fuzz_inputs import SEEDS, mutated

__all__ = ["KINDS", "Fault", "try_inputs"]

SECONDS, BYTES = 5.0, 2**30
# Of the processor: a machine that is busy with other things makes no fault. Who waits for ever takes none.
SECONDS_TO_DEATH, WAITING_TO_DEATH = 60.0, 900.0
KINDS = list(SEEDS)
TRANSFORM = EvalTransform(Preprocessing(20, 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


class Fault(NamedTuple):
    """What went wrong with an input."""

    number: int
    kind: str
    words: str


def input_of(seed: int, number: int) -> tuple[str, bytes]:
    """The kind and the content of an input."""
    kind = KINDS[number % len(KINDS)]
    return kind, mutated(_seed_file(kind), kind, np.random.default_rng([seed, number]))


def try_inputs(numbers: Iterable[int], seed: int, folder: Path) -> Iterator[tuple[int, Fault | None]]:
    """Read inputs, and say of each what went wrong with it; in this process, which may die of it."""
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: said.append(f"a warning: {message}")
        for number in numbers:
            kind, content = input_of(seed, number)
            said.clear()
            started, memory = time.process_time(), _peak()
            try:
                _read(kind, content, folder)
            except Exception:
                said.append(traceback.format_exc(limit=-3))
            taken, more = time.process_time() - started, _peak() - memory
            if taken > SECONDS:
                said.append(f"{taken:.1f} s")
            if more > BYTES:
                said.append(f"{more / 2**30:.1f} GB")
            yield number, Fault(number, kind, "; ".join(said)) if said else None


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _read(kind: str, content: bytes, folder: Path) -> None:
    """All that may become of a file of a kind."""
    if kind.startswith(("jpeg", "png", "fits", "cube")):
        _read_image(content)
        if kind.startswith("fits"):
            _check_plain(content)
            _read_tile(content, folder)
    elif kind.startswith(("tar", "parquet")):
        _read_shard(folder / f"shard.{kind.split()[0]}", content)
    else:
        _read_table(folder / kind, content)


def _read_image(content: bytes) -> None:
    status, pixels = read_cutout(content, [TRANSFORM], 20)[:2]
    if status not in STATUSES or (pixels is None) != (status != "ok"):
        raise AssertionError(f"status {status}")
    packed = pack_image(content, RgbSettings())
    if (packed.content is None) == (packed.problem is None):
        raise AssertionError(f"packed {packed}")
    pack_image(content)
    fits_position(content)
    with contextlib.suppress(UnreadableCutout):
        rgb_from_bands({"g": content, "r": content, "i": content}, RgbSettings())


def _check_plain(content: bytes) -> None:
    """What is read without astropy is what astropy reads."""
    from astropy.io import fits

    plain = plain_images(content)
    if plain is None:
        return
    with fits.open(io.BytesIO(content), memmap=False) as units:
        assert len(units) == len(plain), f"{len(units)} and {len(plain)} extensions"
        for unit, mine in zip(units, plain, strict=True):
            assert str(unit.name).lower() == mine.name.lower()
            assert tuple(unit.shape or ()) == mine.shape
            np.testing.assert_array_equal(unit.data, mine.data)
            # That astropy sets to what the file is.
            for keyword in ("EXTEND", "SIMPLE", "XTENSION"):
                mine.header.pop(keyword, None)
            for keyword, value in mine.header.items():
                assert card(unit.header, keyword) == value, (keyword, card(unit.header, keyword), value)
            if len(mine.shape) >= 2:
                there, here = (sky_of(one.header, mine.shape[-2:]) for one in (unit, mine))
                numbers = [np.array([one[0] or 0.0, *(one[1] or (0.0, 0.0))]) for one in (there, here)]
                np.testing.assert_allclose(*numbers, rtol=1e-9, atol=1e-9)


def _read_tile(content: bytes, folder: Path) -> None:
    path = folder / "tile.fits"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        ((_, images, _),) = describe_files([str(path)], Wanted(("g", "r", "i"), ("BAD",)))
        for tile in join_tiles(images, ()):
            with TilePixels(tile, ("g", "r", "i")) as pixels, contextlib.suppress(UnreadableCutout):
                pixels.window(-5, -5, 40, 40)


def _read_shard(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    # What the verbs take for damage to a shard.
    with contextlib.suppress(UserError, *SHARD_DAMAGE):
        check_columns([str(path)], Columns(), ["object_id", "image"])
        for table in iter_rows(str(path), Columns(), ["object_id", "ra", "dec", "image", "label"]):
            for image in table["image"].to_pylist():
                read_cutout(image, [TRANSFORM], 20)


def _read_table(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        read_labels(str(path))
    with contextlib.suppress(UserError):
        read_positions(str(path), PositionColumns())


_SEED_FILES: dict[str, bytes] = {}


def _seed_file(kind: str) -> bytes:
    if kind not in _SEED_FILES:
        _SEED_FILES[kind] = SEEDS[kind]()
    return _SEED_FILES[kind]


def _work(numbers: range, seed: int, pipe: Connection) -> None:
    """The function of a process: what became of each input, after one of each kind that is whole."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            _read(kind, _seed_file(kind), Path(folder))
        for result in try_inputs(numbers, seed, Path(folder)):
            pipe.send(result)


def _results(numbers: range, seed: int) -> Iterator[Fault | None]:
    """What became of each input, whatever becomes of the process."""
    at = numbers.start
    while at < numbers.stop:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(range(at, numbers.stop), seed, sender)
        )
        process.start()
        sender.close()
        try:
            while at < numbers.stop:
                _wait(receiver, process.pid or 0)
                at, fault = receiver.recv()
                at += 1
                yield fault
        except (EOFError, TimeoutError) as error:
            process.kill()
            process.join()
            words = str(error) or f"the process ended with {process.exitcode}"
            yield Fault(at, KINDS[at % len(KINDS)], words)
            at += 1
        process.join()


def _wait(receiver: Connection, pid: int) -> None:
    """Wait for a process's next word.

    Raises
    ------
    TimeoutError
        If it hangs.
    """

    def seconds() -> float:
        try:
            times = psutil.Process(pid).cpu_times()
        # It has just ended, which the pipe tells.
        except psutil.Error:
            return began
        return float(times.user + times.system)

    began, asked = 0.0, time.monotonic()
    began = seconds()
    while not receiver.poll(1.0):
        if seconds() - began > SECONDS_TO_DEATH or time.monotonic() - asked > WAITING_TO_DEATH:
            raise TimeoutError(f"hangs for {time.monotonic() - asked:.0f} s")


def main() -> None:
    """Try the inputs; exit code 1 if one of them went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that went wrong")
    arguments = parser.parse_args()
    started, faults = time.monotonic(), Counter[str]()
    numbers = range(arguments.first, arguments.first + arguments.inputs)
    for fault in _results(numbers, arguments.seed):
        if fault is None:
            continue
        faults[fault.words.strip().splitlines()[-1][:100]] += 1
        print(f"{fault.number} {fault.kind}: {fault.words}", flush=True)
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            name = f"{arguments.seed}-{fault.number}-{fault.kind.replace(' ', '_')}"
            (arguments.keep / name).write_bytes(input_of(arguments.seed, fault.number)[1])
    print(f"{arguments.inputs} inputs, {time.monotonic() - started:.0f} s, {sum(faults.values())} faults")
    for words, count in faults.most_common():
        print(f"{count:6} {words}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
