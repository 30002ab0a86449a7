"""A few rounds of `tests.interleavings`: two writers of one output, with leases that live and that die."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bundles import random_bundle
from tests.interleavings import Ground, Kind, make_ground, play
from tests.object_store import ObjectStore

EXPECTED: dict[tuple[str, int], Any] = {}


@pytest.fixture(scope="module")
def ground(
    ray_session: None, random_model: str, object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Ground:
    work = tmp_path_factory.mktemp("ground")
    other = random_bundle(tmp_path_factory.mktemp("models") / "other", seed=1)
    return make_ground(work, f"{object_store.url}/{work.name}", (random_model, other))


@pytest.mark.parametrize(
    ("verb", "store", "sleepy"),
    [
        ("classify", "disk", False),
        ("classify", "S3", True),
        ("ingest", "disk", True),
        ("ingest", "S3", False),
        ("publish", "disk", False),
        ("publish", "S3", True),
    ],
)
def test_two_writers_of_one_output_never_mix(ground: Ground, verb: str, store: str, sleepy: bool) -> None:
    kind = Kind(verb, store, same=False, sleepy=sleepy)
    assert play(ground, kind, 10 + 2 * sleepy + (store == "S3"), EXPECTED)[1] == ""


def test_two_writers_of_one_plan_do_not_help_one_another(ground: Ground) -> None:
    word, wrong = play(ground, Kind("publish", "disk", same=True, sleepy=False), 20, EXPECTED)
    assert (word, wrong) == ("done + refused", "")
