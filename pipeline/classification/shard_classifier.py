"""What holds a model bundle and turns shards into parts of a catalog.

It takes the rows of shards as they were read, or reads them a few hundred at a time, decodes them with
threads, runs the cascade and writes each shard's part whole. What it returns is one small entry a shard.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from hiwl_core.box import box_models, box_place, in_the_box
from hiwl_core.bundle import ModelBundle, bundle_from_files
from hiwl_core.cascade_stream import Image
from hiwl_core.device import check_device
from hiwl_core.errors import UserError, words_of
from pipeline import storage
from pipeline.catalog.ledger import LedgerEntry
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.decided import classifier_for
from pipeline.classification.shard_work import CatalogWork, ShardTask, ShardWork
from pipeline.hub import in_hub, reader
from pipeline.read_ahead import read_ahead
from pipeline.retry_policy import SECONDS_BETWEEN_SHARD_ATTEMPTS, SHARD_ATTEMPTS
from pipeline.shards.shard_groups import SHARD_DAMAGE

__all__ = ["ShardClassifier", "bundle_place", "bundle_reader", "read_bundle"]


# Tables of some hundred rows that are read before they are asked for.
TABLES_AHEAD = 2


def read_bundle(path: str) -> ModelBundle:
    """A model bundle from a local folder or a URL, or by its name in the box; its hashes checked.

    Raises
    ------
    UserError
        If it is not whole or was changed, or is neither a folder nor a name.
    """
    return bundle_from_files(bundle_reader(path), path)


def bundle_reader(path: str) -> Callable[[str], bytes]:
    """What reads the files of a bundle by their names, wherever it is; for errors see `read_bundle`."""
    if in_hub(path):
        return reader(path)
    folder = str(box_place(path)) if path in box_models() else bundle_place(path)

    def read(name: str) -> bytes:
        if not storage.exists(f"{folder}/{name}"):
            raise UserError(f"no model bundle at {path!r}: {name} is missing{in_the_box()}")
        return storage.read_bytes(f"{folder}/{name}")

    return read


def bundle_place(path: str) -> str:
    """Where a bundle's files are: those of a name in the box come with the package, on every node."""
    return path if path in box_models() else storage.absolute(path).rstrip("/")


class ShardClassifier:
    """Holds the bundle and turns shards into parts, a group of shards at a time.

    The shards of a group are one stream of images to the engines, so that small ones do not leave batches
    half empty; each has its part as soon as its last row is classified.

    Parameters
    ----------
    work : CatalogWork
    cpus : int
        Threads that decode and compute.
    use_gpu : bool
    """

    def __init__(self, work: CatalogWork, cpus: int, use_gpu: bool = False) -> None:
        if use_gpu:
            check_device()
        self._bundle, self._cpus = read_bundle(work.bundle_path), cpus
        if self._bundle.model_id != work.model_id:
            raise RuntimeError(
                f"the bundle at {work.bundle_path} changed: {self._bundle.model_id}, not {work.model_id}"
            )
        torch.set_num_threads(cpus)
        contents = CatalogContents.from_settings(work.settings)
        self._classifier = classifier_for(contents, self._bundle, work.engine, use_gpu, cpus)
        # Parts are packed and sent off while the engines go on.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")

    @property
    def engine(self) -> str:
        """What computes, in words."""
        return self._classifier.engine.describe()

    def classify(self, tasks: Sequence[ShardTask]) -> list[LedgerEntry]:
        """Classify a group of shards.

        Returns
        -------
        list of LedgerEntry
            One for each task: its part's, or why it has none. What a store that is away for minutes ended is
            tried again first.
        """
        # Of each thread its own, and this need not be the one that began.
        torch.set_num_threads(self._cpus)
        entries: list[LedgerEntry] = []
        for attempt in range(1, SHARD_ATTEMPTS + 1):
            again = []
            for task, done in zip(tasks, self._stream(tasks), strict=True):
                if isinstance(done, LedgerEntry):
                    entries.append(done)
                elif isinstance(done, storage.StoreError) and attempt < SHARD_ATTEMPTS:
                    again.append(task)
                else:
                    reason = words_of(done, 300)
                    entries.append(task.entry(failed=f"{task.shard}: {type(done).__name__}: {reason}"))
            if not again:
                break
            time.sleep(SECONDS_BETWEEN_SHARD_ATTEMPTS)
            tasks = again
        return entries

    def _stream(self, tasks: Sequence[ShardTask]) -> list[LedgerEntry | Exception]:
        """Classify shards as one stream; for each its entry, or what reading or writing it raised."""
        works = [ShardWork(task, self._bundle) for task in tasks]
        # Whose images the next results are of.
        sources: deque[ShardWork] = deque()
        written: dict[ShardWork, Future[LedgerEntry]] = {}

        def images() -> Iterator[list[Image]]:
            for work in works:
                for batch in work.images():
                    sources.append(work)
                    yield batch

        def write_finished() -> None:
            for work in works:
                if work not in written and work.finished:
                    written[work] = self._writer.submit(work.write, self.engine)

        for statuses, prediction in self._classifier.classify_batches(read_ahead(images(), TABLES_AHEAD)):
            sources.popleft().take(statuses, prediction)
            write_finished()
        # The last of a shard is only known to be the last when the next was asked for.
        write_finished()
        return [work.error or _result_or_damage(written[work]) for work in works]


def _result_or_damage(written: Future[LedgerEntry]) -> LedgerEntry | Exception:
    try:
        return written.result()
    except SHARD_DAMAGE as error:
        return error
