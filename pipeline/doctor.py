"""What this machine has and reaches, as lines for a bug report; and what of it will not do."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from hiwl_core.box import box_models
from hiwl_core.errors import UserError, words_of
from pipeline import storage
from pipeline.cores import usable_cores
from pipeline.named_cluster import named_cluster

__all__ = ["Finding", "examine"]

PACKAGES = ("hiwl", "ray", "torch", "torchvision", "openvino", "pyarrow", "duckdb", "numpy", "astropy")
OPTIONAL = {
    "s3fs": "s3",
    "gcsfs": "gcs",
    "adlfs": "azure",
    "huggingface_hub": "hub",
    "matplotlib": "figures",
    "galsim": "simulate",
    "timm": "timm",
    "nncf": "int8",
    "tensorboard": "tensorboard",
    "mlflow-skinny": "mlflow",
}
"""Packages without which something is not there, and the extra that brings each."""
LEAST_MEMORY, LEAST_DISK = 4 * 2**30, 2 * 2**30
"""Bytes, below which a small classification does not run for sure."""


@dataclass(frozen=True)
class Finding:
    """A fact of this machine.

    Parameters
    ----------
    what, fact : str
    mend : str
        What to do about it; empty where nothing is wrong.
    """

    what: str
    fact: str
    mend: str = ""


def examine(places: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Look at this machine, a finding at a time.

    Parameters
    ----------
    places : tuple of str
        Folders or URLs that will be written to; in each a file of some bytes is written, read and removed.
    """
    yield Finding("system", f"{platform.platform()}, Python {platform.python_version()}")
    for name in PACKAGES:
        yield Finding(name, version(name))
    for name, extra in OPTIONAL.items():
        yield Finding(name, _optional_version(name, extra))
    yield _clock()
    yield Finding("cores", f"{usable_cores()} of {os.cpu_count()} for this process")
    yield _memory()
    yield _gpu()
    for what, place in (
        ("temporary files", tempfile.gettempdir()),
        ("cache", _cache()),
        ("here", str(Path.cwd())),
    ):
        yield _disk(what, place)
    yield Finding("Ray", named_cluster() or "started by each verb on this machine")
    yield Finding("models", ", ".join(box_models()) or "none in the box")
    for place in places:
        yield _reached(place)


def _optional_version(name: str, extra: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return f"not there: pip install 'hiwl[{extra}]' brings it"


def _clock() -> Finding:
    """The time, by which leases and requests to stores are judged; a store says itself if its is another."""
    now = datetime.now(UTC)
    installed = datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC)
    mend = "" if now >= installed else f"it is before the time of this file, {installed:%Y-%m-%d}: set it"
    return Finding("clock", f"{now:%Y-%m-%dT%H:%M:%SZ}", mend)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    fact = f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f}"
    return Finding("memory", fact, "" if memory.available > LEAST_MEMORY else "close other programs")


def _gpu() -> Finding:
    # torch takes seconds to import.
    import torch

    from hiwl_core.device import check_device, choose_compute

    if not torch.cuda.is_available() and not Path("/proc/driver/nvidia").exists():
        return Finding("GPU", f"none; {choose_compute().describe()}")
    try:
        check_device()
    except UserError as error:
        return Finding("GPU", "one that PyTorch cannot use", str(error))
    name, capability = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
    count = torch.cuda.device_count()
    return Finding(
        "GPU", f"{count} x {name} (sm_{capability[0]}{capability[1]}); {choose_compute().describe()}"
    )


def _cache() -> str:
    from hiwl_core.cached_engine import default_cache

    return str(default_cache())


def _disk(what: str, place: str) -> Finding:
    there = next(path for path in (Path(place), *Path(place).parents) if path.exists())
    free = shutil.disk_usage(there).free
    mend = "" if free > LEAST_DISK else "make room, or set TMPDIR or HIWL_CACHE to another disk"
    if not os.access(there, os.W_OK):
        mend = f"{there} cannot be written to"
    return Finding(what, f"{place}, {free / 2**30:.1f} GiB free", mend)


def _reached(place: str) -> Finding:
    try:
        return Finding(place, _written(place))
    # Whatever it is, it is what was to be found.
    except (UserError, storage.StoreError, OSError) as error:
        return Finding(place, "cannot be used", words_of(error))


def _written(place: str) -> str:
    file, content = (
        f"{storage.absolute(place).rstrip('/')}/.hiwl-{secrets.token_hex(8)}",
        secrets.token_bytes(64),
    )
    storage.write_bytes(file, content)
    try:
        same = storage.read_bytes(file) == content
    finally:
        storage.remove(file)
    if not same:
        raise OSError("what was read is not what was written")
    return "written, read and removed"
