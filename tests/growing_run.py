"""A classification on a cluster that grows: which nodes took part, as JSON. Run as ``python -m``."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.catalog.manifest import PlannedShard
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.computing import WHATEVER_THERE_IS
from pipeline.classification.shard_stream import classify_shards
from pipeline.classification.shard_work import CatalogWork
from pipeline.classification.stage_actors import StageActors
from pipeline.cluster import connected, resources_now
from pipeline.shards.cutout_shards import Columns
from tests.stand_in_stages import PatientStage, nodes


def main(shards: Sequence[str]) -> None:
    """Classify shards; print the nodes before and after, and the shards of each node."""
    work = CatalogWork("", "", CatalogContents().to_settings(Columns()), "")
    planned = [PlannedShard(path, Path(path).name, 3, Path(path).stat().st_size, "", "") for path in shards]
    with connected():
        # The warm node may come a moment after the head.
        deadline = time.monotonic() + 60
        while not nodes() and time.monotonic() < deadline:
            time.sleep(0.2)
        before, cluster = nodes(), resources_now()
        actors = StageActors.on(cluster, WHATEVER_THERE_IS)
        of_node: Counter[str] = Counter()
        for entry in classify_shards(work, planned, actors, PatientStage):
            of_node.update(entry.statuses)
        deadline = time.monotonic() + 60
        while nodes() > before and time.monotonic() < deadline:
            time.sleep(0.5)
        print(json.dumps({"before": before, "shards": list(of_node.values()), "after": nodes()}))


if __name__ == "__main__":
    main(sys.argv[1:])
