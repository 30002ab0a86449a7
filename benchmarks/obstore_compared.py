"""The S3 store of `pipeline.storage` beside obstore: what each does at faults and mistakes, and how fast.

`python benchmarks/obstore_compared.py`, where obstore is installed; docs/robustness.md has what it printed.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace as Side
from typing import Any
from unittest.mock import patch

import obstore
from obstore.store import S3Store

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline import storage
from pipeline.retry_policy import STORE_ATTEMPTS
from pipeline.storage import retries
from tests.flaky_store import flaky
from tests.object_store import BUCKET, free_ports, serve, store_environment

SMALL = [f"small/{number:04d}" for number in range(2_000)]
ROOT = f"s3://{BUCKET}"
OFTEN = {"max_retries": STORE_ATTEMPTS - 1, "backoff": {"max_backoff": timedelta(milliseconds=100)}}
of = cache(lambda bucket, *_: S3Store(bucket, client_options={"allow_http": True}, retry_config=OFTEN))


def theirs(bucket: str = BUCKET) -> S3Store:
    """Their store that the environment names now, with our number of attempts."""
    return of(bucket, os.environ["AWS_ENDPOINT_URL"], os.environ["AWS_SECRET_ACCESS_KEY"])


SIDES = {
    "ours": Side(
        create=lambda name: storage.create_bytes(f"{ROOT}/ours-{name}", b"mine"),
        write=lambda name, content: storage.write_bytes(f"{ROOT}/{name}", content),
        read=lambda name, bucket=BUCKET: storage.read_bytes(f"s3://{bucket}/{name}"),
        open=lambda name: storage.open_input(f"{ROOT}/{name}"),
        count=lambda: sum(1 for _ in storage.iter_entries(f"{ROOT}/small")),
    ),
    "obstore": Side(
        create=lambda name: bool(obstore.put(theirs(), f"obstore-{name}", b"mine", mode="create")),
        write=lambda name, content: obstore.put(theirs(), name, content),
        read=lambda name, bucket=BUCKET: obstore.get(theirs(bucket), name).bytes().to_bytes(),
        open=lambda name: obstore.open_reader(theirs(), name, buffer_size=2**16),
        count=lambda: sum(len(page) for page in obstore.list(theirs(), "small", chunk_size=1000)),
    ),
}


def said(action: Callable[[], Any], **settings: str) -> str:
    """What comes of something under other settings, or the kind of its error."""
    with patch.dict(os.environ, settings):
        try:
            return str(action())
        except Exception as error:
            return type(error).__name__


def cut(action: Callable[[int], Any], **faults: Any) -> str:
    """How often something comes to its end on a network that cuts connections."""
    with flaky(os.environ["AWS_ENDPOINT_URL"], 3, **faults) as network:
        results = [said(lambda n=n: bool(action(n)), AWS_ENDPOINT_URL=network.endpoint) for n in range(50)]
    return f"{results.count('True')} of 50"


def overwritten(side: Side) -> str:
    """What a file gives that was written over while it was read."""
    side.write("file", b"1" * 2_000_000)
    file = side.open("file")
    file.read(1)
    side.write("file", b"2" * 2_000_000)
    return said(lambda: file.seek(1_000_000) and f"first 1, then {bytes(file.read(1)).decode()}")


def forked(side: Side) -> str:
    """Whether a child of a process that has read can read."""
    child = multiprocessing.get_context("fork").Process(target=side.read, args=(SMALL[0],))
    child.start()
    child.join(10)
    child.kill()
    return "reads" if child.exitcode == 0 else "hangs for 10 s"


def interrupted(name: str) -> str:
    """Whether a process that waits for an answer ends with Ctrl-C."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        command = ["timeout", "--signal=INT", "--kill-after=10", "10", sys.executable, __file__, name]
        ended = subprocess.run(command, env=os.environ | there, stderr=subprocess.DEVNULL, check=False)
    return "ends" if ended.returncode == 124 else "goes on for 10 s"


def raced(action: Callable[[Side], object]) -> str:
    """Seconds, and those of CPU, of ours in times of theirs, pairwise; the first round does not count."""
    ratios = []
    for _ in range(4):
        clocks = [(time.perf_counter(), time.process_time())]
        for side in SIDES.values():
            action(side)
            clocks.append((time.perf_counter(), time.process_time()))
        ratios.append([(b - a) / max(c - b, 1e-3) for a, b, c in zip(*clocks, strict=True)])
    wall, work = (sorted(several) for several in zip(*ratios[1:], strict=True))
    return f"{wall[1]:.1f} ({wall[0]:.1f} to {wall[-1]:.1f}), {work[1]:.1f}"


def main() -> None:
    """Print both tables."""
    retries.FIRST_WAIT_SECONDS, retries.LONGEST_WAIT_SECONDS = 0.002, 0.1
    threads = ThreadPoolExecutor(16)
    list(threads.map(lambda name: SIDES["ours"].write(name, os.urandom(3000)), SMALL))
    SIDES["ours"].write("big", os.urandom(64 * 2**20))
    print("| | ours | obstore |\n|---|---|---|")
    for what, check in {
        "claims that their maker knows of": lambda side: cut(side.create, cuts=0.5, methods=("PUT",)),
        "listings that come": lambda side: cut(lambda _: side.count(), cuts=0.3),
        "a file that is written over while it is read": overwritten,
        "a child of a fork": forked,
        "no such bucket": lambda side: said(lambda: side.read(SMALL[0], "nobodys")),
        "a wrong secret": lambda side: said(lambda: side.read(SMALL[0]), AWS_SECRET_ACCESS_KEY="wrong"),
        "nobody at the endpoint": lambda side: said(
            lambda: side.read(SMALL[0]), AWS_ENDPOINT_URL="http://127.0.0.1:9"
        ),
    }.items():
        print("|", what, "|", " | ".join(map(check, SIDES.values())), "|", flush=True)
    print("| Ctrl-C while no answer comes |", " | ".join(map(interrupted, SIDES)), "|", flush=True)
    print("\n| | seconds of ours in times of obstore's, and of CPU |\n|---|---|")
    print("| 64 MB |", raced(lambda side: side.read("big")), "|")
    print("| 200 of 3 kB, 16 threads |", raced(lambda side: list(threads.map(side.read, SMALL[:200]))), "|")
    print(f"| a listing of {len(SMALL):,} |", raced(lambda side: side.count()), "|", flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        SIDES[sys.argv[1]].read("x")
    else:
        os.environ.update(store_environment(port := free_ports(1)[0]))
        with tempfile.TemporaryDirectory() as folder, serve(Path(folder), port):
            main()
