"""Does HIWL do on a GPU what it says? Under ten minutes on one card, without a network.

    python benchmarks/gpu_acceptance.py [--galaxies 2000] [--backbone efficientnet_b1] [--size 240]
    python benchmarks/gpu_acceptance.py --device cpu --galaxies 60 --backbone efficientnet_lite0 --size 64

Each check is one line: PASS or FAIL with its figures, INFO for figures without a goal, SKIP with what is
missing. The exit code is 1 if any failed. Everything goes to --json too; a table for docs/gpu.md comes last.
`--device cpu` runs what needs no GPU, to try the script itself; there no speed is a goal.

The galaxies are simulated, or drawn where galsim is not installed. Weights are random, with the statistics
and the spread of logits that the images give them. A rate is the median of some rounds by turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from gpu_checks import agreement, environment, memory, speed, training
from gpu_ground import Ground
from gpu_verbs import classified, killed_training, several_gpus

from hiwl_core.device import choose_compute
from hiwl_core.simulated_morphology import CLASS_COUNTS

CUTOUT = 256
VERBS = ("ray", "fsspec", "click", "rich", "hiwl")
# Name, packages that it needs, GPUs that it needs, and what it does.
SECTIONS = (
    ("environment", (), 0, environment),
    ("agreement", (), 0, agreement),
    ("speed", (), 0, speed),
    ("training", (), 0, training),
    ("memory", (), 1, memory),
    ("classify", VERBS, 0, classified),
    ("train", VERBS, 0, killed_training),
    ("several", VERBS, 2, several_gpus),
)


@dataclass
class Report:
    """What came of the checks, each printed as it comes."""

    rows: list[dict[str, str]] = field(default_factory=list)

    def add(self, section: str, check: str, verdict: str, figures: str) -> None:
        """Note one check and print its line."""
        self.rows.append({"section": section, "check": check, "verdict": verdict, "figures": figures})
        print(f"{verdict}  {section:<12} {check:<40} {figures}", flush=True)

    @property
    def failed(self) -> int:
        """Checks that failed."""
        return sum(row["verdict"] == "FAIL" for row in self.rows)

    def table(self) -> str:
        """Markdown, for a page."""
        lines = [" | ".join(row.values()) for row in self.rows]
        return "\n".join(
            f"| {line} |" for line in ["section | check | | figures", "|".join(["---"] * 4), *lines]
        )


def main() -> None:
    """Make the galaxies, run the sections that can run here, write what came of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--galaxies", type=int, default=2000)
    parser.add_argument("--backbone", default="efficientnet_b1")
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--only", default=",".join(name for name, *_ in SECTIONS), help="Sections, by commas."
    )
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    report, started = Report(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(
            compute=choose_compute(torch.device(options.device)) if _usable(options.device) else None,
            backbone=options.backbone,
            size=options.size,
            galaxies=_galaxies(options.galaxies),
            folder=Path(folder),
        )
        for name, needs, gpus, run in SECTIONS:
            if name in options.only.split(","):
                _run(report, ground, name, _missing(needs, gpus, options.device), run)
    minutes = (time.monotonic() - started) / 60
    facts = {"minutes": round(minutes, 2), "torch": torch.__version__, "options": vars(options)}
    options.json.write_text(json.dumps({**facts, "checks": report.rows}, indent=1, default=str))
    print(
        f"\n{report.table()}\n\n{report.failed} failed in {minutes:.1f} min; all of it is in {options.json}"
    )
    sys.exit(report.failed > 0)


def _run(report: Report, ground: Ground, name: str, missing: str, run: Any) -> None:
    """One section; what it raises is a failure, and the others still run."""
    if missing:
        report.add(name, "all", "SKIP", missing)
        return
    if ground.compute is None and name != "environment":
        report.add(name, "all", "SKIP", "the GPU cannot be used")
        return
    started = time.monotonic()
    try:
        run(ground, partial(report.add, name))
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        report.add(name, "runs to its end", "FAIL", f"{type(error).__name__}: {words}")
    print(f"      {name}: {time.monotonic() - started:.0f} s", flush=True)


def _missing(needs: tuple[str, ...], gpus: int, device: str) -> str:
    """Why a section cannot run here; empty if it can."""
    absent = [name for name in needs if not _installed(name)]
    if absent:
        return f"{', '.join(absent)} not installed"
    if gpus and device == "cpu":
        return "for GPUs alone"
    return f"{gpus} GPUs are needed" if torch.cuda.device_count() < gpus else ""


def _installed(package: str) -> bool:
    """Whether its metadata is there: the project's own folder is found without, and the verbs ask for it."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _usable(device: str) -> bool:
    return device == "cpu" or torch.cuda.is_available()


def _galaxies(count: int) -> list[tuple[str, bytes]]:
    """Class and JPEG of each galaxy."""
    if find_spec("galsim") is None:
        from tests.drawings import draw_galaxy

        names = list(CLASS_COUNTS)
        return [(names[row % 5], draw_galaxy(names[row % 5], row, CUTOUT)) for row in range(count)]
    with ProcessPoolExecutor() as processes:
        return list(processes.map(_simulated, range(count), chunksize=8))


def _simulated(index: int) -> tuple[str, bytes]:
    from hiwl_core.simulation import simulate_galaxy

    galaxy = simulate_galaxy(1, index, CUTOUT)
    return galaxy.truth, galaxy.image


if __name__ == "__main__":
    main()
