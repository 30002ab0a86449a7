"""What a catalog is worth when things die: the driver, a worker, a whole node."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.catalog.verify import verify
from pipeline.classification.classify import classify
from tests.kills import KINDS, classify_under_fire, expected_rows, parts, read, write_sky

SHARDS = 36


@pytest.mark.nightly
def test_kills_of_workers_a_node_and_the_driver_change_nothing(
    ray_session: None, random_model: str, tmp_path: Path
) -> None:
    """One of each, with the networks at work; `benchmarks/kills.py` kills on and on."""
    # Groups of shards that take seconds: they are under way when something dies.
    sky = write_sky(tmp_path, shards=SHARDS, copies=10)
    catalogs = classify_under_fire(random_model, sky, tmp_path, KINDS[:3], np.random.default_rng(20))
    classify(random_model, str(sky.drawn), str(tmp_path / "alone"))
    expected = expected_rows(sky, read(tmp_path / "alone"))
    for catalog in catalogs:
        result = verify(str(catalog))
        assert result.passed, result.findings
        assert result.rows == len(expected) == SHARDS * 200
        assert parts(catalog) == set(sky.names)
        # Not bit by bit: the networks' last digits depend on how many threads they were granted.
        pd.testing.assert_frame_equal(read(catalog), expected, rtol=1e-4, atol=1e-5)
