"""What `classify` has to do: the plan of a catalog, new or found again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.catalog.ledger import read_ledger
from pipeline.catalog.manifest import (
    NEXT_STEPS,
    CatalogPlan,
    PlannedShard,
    check_free,
    claim_catalog,
    is_catalog,
    part_names,
    planned_meanwhile,
    read_plan,
)
from pipeline.catalog.parts import content_in, list_parts, read_part
from pipeline.catalog.shard_content import content_of
from pipeline.progress import say
from pipeline.shards.cutout_shards import SHARD_SUFFIXES, list_shards
from pipeline.shards.fingerprints import ends_of
from pipeline.shards.inspection import WantedColumns, inspect_shards
from pipeline.shards.shard_groups import SHARD_DAMAGE
from pipeline.shards.side_files import without_side_files

__all__ = ["plan_catalog", "shard_entries"]


def plan_catalog(
    folder: str,
    shards_path: str,
    model_id: str,
    settings: Callable[[dict[str, Any] | None, list[storage.Entry]], dict[str, Any]],
    wanted: WantedColumns,
    update: bool = False,
    claim: Callable[[], object] = lambda: None,
) -> CatalogPlan:
    """The plan of a catalog: the stored one, checked against the shards, or a new one, stored.

    Parameters
    ----------
    folder : str
        Of the catalog, absolute.
    shards_path : str
        A file, a folder or a glob.
    model_id : str
    settings : callable
        From the settings of the catalog that is there already, or None, and the shards to those wanted now;
        called when the shards are known to be fit, since it may have to try what a cluster can do.
    wanted : WantedColumns
        What each shard must have.
    update : bool
        Take in shards that were added or changed since the plan was made.
    claim : callable
        Makes the folder this run's, when all is known to be fit and before anything is written.

    Raises
    ------
    UserError
        For missing shards or columns, two shards of one name, a folder of something else, a catalog of
        another model or other settings, and shards that are not those of the plan.
    """
    entries = {entry.path: entry for entry in shard_entries(shards_path)}
    names = part_names(list(entries))
    # What was planned before is not read again as long as the storage says that it is the same.
    old = read_plan(folder) if is_catalog(folder) else None
    if old is not None:
        making = settings(old.settings, list(entries.values()))
        _check_same_making(folder, old, model_id, making)
        _check_none_gone(folder, old, names)
    known = old.shards if old is not None else {}
    written: dict[str, PlannedShard] = {}
    kept: dict[str, PlannedShard] = {}
    unknown: list[str] = []
    for part, path in names.items():
        planned, entry = known.get(part), entries[path]
        if planned and (planned.size, planned.mark, planned.shard) == (entry.size, entry.mark, path):
            kept[part] = planned
        else:
            unknown.append(part)
    added, changed = [], []
    looks = inspect_shards([names[part] for part in unknown], wanted)
    for part, found in zip(unknown, looks, strict=True):
        path, planned = names[part], known.get(part)
        kept[part] = PlannedShard(
            path, part, found.rows, entries[path].size, entries[path].mark, found.fingerprint
        )
        if planned is None:
            added.append(path)
        elif ends_of(planned.fingerprint) != found.fingerprint:
            changed.append(path)
        else:
            kept[part] = replace(kept[part], fingerprint=planned.fingerprint)
            if planned.mark != kept[part].mark:
                written[part] = kept[part]
    if old is not None and written:
        say(f"{len(written)} shards were written since they were planned: their rows are compared")
        for shard in _changed_inside(folder, written, old.settings):
            changed.append(shard.shard)
            kept[shard.part] = _in_another_state(shard)
    if old is not None and (added or changed) and not update:
        raise UserError(_what_changed(folder, added, changed))
    if old is None:
        making = settings(None, list(entries.values()))
    plan = CatalogPlan(model_id, making, {part: kept[part] for part in names})
    if old is None:
        check_free(folder)
    claim()
    # Planning takes minutes: who was first meanwhile is not written over.
    now = read_plan(folder) if is_catalog(folder) else None
    if now is not None and now != old:
        _check_same_making(folder, now, model_id, making)
        if now != plan:
            raise planned_meanwhile(folder)
    if now != plan:
        claim_catalog(folder, plan, now is None)
    return plan


def _changed_inside(
    folder: str, shards: dict[str, PlannedShard], settings: dict[str, Any]
) -> Iterator[PlannedShard]:
    """Those of some shards whose rows are not, or may not be, what their parts were made from."""
    there, ledger = list_parts(folder), read_ledger(folder)

    def changed(shard: PlannedShard) -> bool:
        if shard.part not in there:
            return False
        made = [
            entry.content
            for entry in ledger.get(shard.part, [])
            if not entry.failed and entry.fingerprint == shard.fingerprint
        ]
        try:
            was = made[-1] if made else content_in(read_part(f"{folder}/{shard.part}", []).schema.metadata)
            # Catalogs of before have no digest: whether it is the same cannot be known.
            return not was or content_of(shard.shard, settings) != was
        except storage.StoreError:
            raise
        except SHARD_DAMAGE:
            return True

    for shard, is_changed in zip(shards.values(), storage.in_threads(changed, shards.values()), strict=True):
        if is_changed:
            yield shard


def _in_another_state(shard: PlannedShard) -> PlannedShard:
    """With a fingerprint that its old part does not have; the mark is of this state alone."""
    state = hashlib.sha256(shard.mark.encode()).hexdigest()[:8]
    return replace(shard, fingerprint=f"{ends_of(shard.fingerprint)}+{state}")


def shard_entries(shards_path: str) -> list[storage.Entry]:
    """The shards behind a command-line argument with their sizes, sorted.

    Raises
    ------
    UserError
        If there is none.
    """
    entries = sorted(storage.iter_entries(shards_path), key=lambda entry: entry.path)
    wanted = [entry for entry in entries if entry.path.lower().endswith(SHARD_SUFFIXES)]
    if wanted:
        own_rows = set(without_side_files([entry.path for entry in wanted]))
        return [entry for entry in wanted if entry.path in own_rows]
    # Says what is wrong; only a single file may have any other name.
    named = set(list_shards(shards_path))
    return [entry for entry in entries if entry.path in named]


def _check_same_making(folder: str, old: CatalogPlan, model_id: str, settings: dict[str, Any]) -> None:
    if old.model_id != model_id:
        raise UserError(f"{folder} was made by another model ({old.model_id}, now {model_id}): {NEXT_STEPS}")
    for key in {**old.settings, **settings}:
        if old.settings.get(key) != settings.get(key):
            raise UserError(
                f"{folder} was made with other settings ({key} {old.settings.get(key)}, now "
                f"{settings.get(key)}): {NEXT_STEPS}"
            )


def _check_none_gone(folder: str, old: CatalogPlan, names: dict[str, str]) -> None:
    gone = [shard.shard for part, shard in old.shards.items() if part not in names]
    if gone:
        raise UserError(
            f"{len(gone)} of the {len(old.shards)} shards of {folder} are not among those given now, "
            f"{gone[0]} first: give them all, or {NEXT_STEPS}"
        )


def _what_changed(folder: str, added: list[str], changed: list[str]) -> str:
    what = [
        f"{len(paths)} shards were {verb} ({paths[0]} first)"
        for verb, paths in (("added", added), ("changed", changed))
        if paths
    ]
    return f"since {folder} was planned, {' and '.join(what)}: --update classifies them too; or {NEXT_STEPS}"
