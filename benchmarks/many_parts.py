"""What a catalog of many parts costs those who read it: a query, a verification, the ledger.

python benchmarks/many_parts.py query WORK --parts 100000
python benchmarks/many_parts.py verify WORK --parts 40
python benchmarks/many_parts.py ledger WORK --parts 244000

The parts of `query` are small; those of `verify` have 4,096 rows and shards, so that its cost a row is a real
one. CPU times are of this process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.scaling import own_cpu, write_files
from pipeline import storage
from pipeline.catalog.ledger import Ledger, LedgerEntry, read_ledger
from pipeline.catalog.manifest import CatalogPlan, PlannedShard, claim_catalog, part_record
from pipeline.catalog.parts import encode_part
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.shards.cutout_shards import MAX_SHARD_ROWS, SHARD_SCHEMA, Columns, encode_shard
from pipeline.shards.fingerprints import fingerprint


def main() -> None:
    """Run what is asked for, and print one JSON line a measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=["query", "verify", "ledger"])
    parser.add_argument("work", type=Path, help="folder for the files")
    parser.add_argument("--parts", type=int, default=1000)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    measures = {"query": measure_query, "verify": measure_verify, "ledger": measure_ledger}
    measures[arguments.verb](arguments)


def measure_query(arguments: argparse.Namespace) -> None:
    """Seconds until a catalog of many parts has answered, without and with what a verification left."""
    from pipeline.catalog.part_statistics import part_statistics, write_statistics
    from pipeline.catalog.parts import read_part
    from pipeline.querying.cone import Cone
    from pipeline.querying.query import query

    catalog = str(arguments.work / "parts")
    write_files(arguments.work / "parts", arguments.parts, image=False)
    Path(catalog, "_statistics.arrow").unlink(missing_ok=True)
    for what in ("footers", "statistics"):
        if what == "statistics":
            known = {
                os.path.basename(entry.path): part_statistics(read_part(entry.path), entry.size, entry.mark)
                for entry in storage.iter_entries(catalog)
            }
            write_statistics(catalog, known)
        for question in ("SELECT * FROM catalog LIMIT 5", Cone(0.05, 8.0, 0.1)):
            before, started = own_cpu(), time.monotonic()
            asked = (None, question) if isinstance(question, Cone) else (question, None)
            rows = query(catalog, *asked).table().num_rows
            facts = {
                "query": str(question),
                "by": what,
                "parts": arguments.parts,
                "rows": rows,
                "seconds": round(time.monotonic() - started, 1),
                "cpu_seconds": round(own_cpu() - before, 1),
            }
            print(json.dumps(facts), flush=True)


def measure_verify(arguments: argparse.Namespace) -> None:
    """CPU seconds of a verification, by part."""
    from pipeline.catalog.verify import verify
    from tests.catalogs import MODEL_ID, catalog_rows

    work = arguments.work / f"verified-{time.time_ns()}"
    (work / "sky").mkdir(parents=True)
    catalog, settings = f"{work}/catalog", CatalogContents().to_settings(Columns())
    shards: dict[str, PlannedShard] = {}
    tables: dict[str, pa.Table] = {}
    for number in range(arguments.parts):
        name, path = f"{number:06d}.parquet", work / "sky" / f"{number:06d}.parquet"
        tables[name] = rows = catalog_rows(MAX_SHARD_ROWS, number, 10**17 + MAX_SHARD_ROWS * number)
        images: dict[str, Any] = {"image": [b"JPEG"] * len(rows)}
        columns = [
            rows[field.name]
            if field.name in ("object_id", "ra", "dec")
            else pa.array(images.get(field.name, [None] * len(rows)), field.type)
            for field in SHARD_SCHEMA
        ]
        path.write_bytes(encode_shard(pa.table(columns, names=SHARD_SCHEMA.names), "many_parts"))
        shards[name] = PlannedShard(
            str(path), name, len(rows), path.stat().st_size, "", fingerprint(str(path))
        )
    plan = CatalogPlan(MODEL_ID, settings, shards)
    claim_catalog(catalog, plan, is_new=True)
    with Ledger(catalog, len(shards)) as ledger:
        for name, table in tables.items():
            content = encode_part(table, part_record(plan, shards[name]))
            storage.write_bytes(f"{catalog}/{name}", content)
            digest, statuses = hashlib.sha256(content).hexdigest(), {"ok": len(table)}
            ledger.add(
                LedgerEntry(name, shards[name].fingerprint, len(content), digest, {}, statuses, time.time())
            )
    before, started = own_cpu(), time.monotonic()
    result = verify(catalog)
    facts = {
        "verify": arguments.parts,
        "rows": result.rows,
        "passed": result.passed,
        "cpu_ms_a_part": round(1000 * (own_cpu() - before) / arguments.parts, 2),
        "seconds": round(time.monotonic() - started, 1),
    }
    print(json.dumps(facts), flush=True)


def measure_ledger(arguments: argparse.Namespace) -> None:
    """CPU and memory of the entries of so many parts, written and read."""
    catalog = str(arguments.work / f"ledger-{time.time_ns()}")
    before = own_cpu()
    with Ledger(catalog, arguments.parts) as ledger:
        for number in range(arguments.parts):
            classes = {"CRS": 1000, "IBS": 900, "CSS": 100, "EO": 500, "SPI": 1590}
            ledger.add(
                LedgerEntry(
                    f"survey-{number:07d}-of-{arguments.parts:07d}.parquet",
                    f"{number:016x}",
                    250_000,
                    f"{number:064x}",
                    classes,
                    {"ok": 4090, "undecodable": 6},
                    1.7e9 + number,
                    8.0,
                    ledger.run,
                )
            )
    written, before = own_cpu() - before, own_cpu()
    held = _memory()
    entries = read_ledger(catalog)
    facts = {
        "ledger": len(entries),
        "megabytes": round(sum(size for _, size in storage.list_files(f"{catalog}/_ledger")) / 1e6, 1),
        "write_us_an_entry": round(1e6 * written / arguments.parts, 1),
        "read_us_an_entry": round(1e6 * (own_cpu() - before) / arguments.parts, 1),
        "held_kb_an_entry": round((_memory() - held) / arguments.parts / 1000, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
    }
    print(json.dumps(facts), flush=True)


def _memory() -> int:
    """Bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    main()
