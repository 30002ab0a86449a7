"""What several benchmarks measure with: a command's memory over all its processes, and versions."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

__all__ = ["ROOT", "versions_of", "watched"]

ROOT = Path(__file__).resolve().parents[1]
# A look at dozens of processes takes a core for a twentieth of a second.
SECONDS_BETWEEN_LOOKS = 3.0
MEBIBYTE = 2**20


def watched(command: list[str], own: bool) -> dict[str, Any]:
    """Run a command; what it printed, the seconds of its life and the peaks of its memory in MiB.

    Parameters
    ----------
    command : list of str
    own : bool
        Whether it needs the project's packages; another Python's must not come in their way.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment.pop("PYTHONPATH", None)
    if own:
        # For the workers that Ray starts.
        environment["PYTHONPATH"] = str(ROOT)
    peaks: dict[str, float] = {"pss": 0.0, "rss": 0.0}
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as log:
        started = time.monotonic()
        job = subprocess.Popen(
            command, stdout=said, stderr=log, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            while job.poll() is None:
                for kind, size in _memory(job.pid).items():
                    peaks[kind] = max(peaks[kind], size)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    job.wait(SECONDS_BETWEEN_LOOKS)
        finally:
            _end(job)
        whole = time.monotonic() - started
        said.seek(0)
        log.seek(0)
        if job.returncode:
            last_words = log.read().decode(errors="replace")[-3000:]
            sys.exit(f"{' '.join(command)}: exit code {job.returncode}\n{last_words}")
        return {"said": said.read().decode(), "whole": whole, **peaks}


def _memory(pid: int) -> dict[str, float]:
    sizes = {"pss": 0.0, "rss": 0.0}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                facts = process.memory_full_info()
                sizes["pss"] += facts.pss / MEBIBYTE
                sizes["rss"] += facts.rss / MEBIBYTE
    return sizes


def _end(job: subprocess.Popen[bytes]) -> None:
    """End a job that still runs, and all that it started."""
    if job.poll() is not None:
        return
    family = psutil.Process(job.pid).children(recursive=True)
    for process in [*family, job]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    job.wait()


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed."""
    versions = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
