"""A few rounds of `tests.faults`: what befalls a classification at random moments costs no row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault_ground import make_ground
from tests.faults import play

# Where a disk can be mounted, a store that fails, SIGKILL of a node and of a worker; SIGKILL of the driver, a
# second start and a full disk. Where others read, SIGKILL of one of those and of a worker, a second start.
# Each at a moment that is counted in parts, so that it befalls a run at work on a slow machine too.
SEEDS = {"fused": (283_658, 325), "separate": (63_131,)}


@pytest.mark.slow
@pytest.mark.parametrize("way", SEEDS)
def test_what_befalls_a_classification_costs_no_row(random_model: str, tmp_path: Path, way: str) -> None:
    with make_ground(tmp_path, random_model, way) as ground:
        for seed in SEEDS[way]:
            made = play(ground, seed)
            assert made.wrong == [], (seed, made.place, made.faults)
