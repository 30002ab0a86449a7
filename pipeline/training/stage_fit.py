"""One stage by Ray Train: workers, checkpoints, and what is tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util import placement_group_table

from hiwl_core.errors import IncompleteError
from pipeline import storage
from pipeline.mistakes import user_error_in
from pipeline.retry_policy import STAGE_FAILURES
from pipeline.training.process_group import CheckedTorchConfig
from pipeline.training.run_folder import BEST_KEPT, Candidate, RunFolder
from pipeline.training.stage_epochs import StageJob
from pipeline.training.stage_setup import StageSetup
from pipeline.training.stage_worker import train_stage
from pipeline.waiting import waiting_lines

__all__ = ["fit_stage", "room_waited_for", "stage_trainer"]

# Of Ray Train, two that start a process each, by their names: for data sets that are given to its trainer,
# which ours are not, and for what a killed controller leaves on a cluster, which it asks the dashboard for.
DATASETS, CLEANER = "DatasetsCallback", "PlacementGroupCleanerCallback"
# The layers' outputs are tens of megabytes each. glibc maps such blocks anew for every step, and the kernel
# clears their pages: a third of a step. Kept in the process's heap they are there already.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(64 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}


def fit_stage(job: StageJob, folder: RunFolder, setup: StageSetup) -> list[Candidate]:
    """Train one stage, going on from its last checkpoint if there is one.

    Returns
    -------
    list of Candidate
        The best checkpoints by validation accuracy, best first, three at most.

    Raises
    ------
    UserError
        If a worker was given a GPU that PyTorch cannot use.
    IncompleteError
        If it failed again and again; its checkpoints are kept.
    """
    trainer = stage_trainer(train_stage, job, folder, setup)
    try:
        with waiting_lines(partial(room_waited_for, job.stage, setup)), trainer.ended_with_this():
            result = trainer.fit()
    # Ray wraps whatever went wrong, and in a killed run its own record may be half written.
    except Exception as error:
        mistake = user_error_in(error)
        if mistake is not None:
            raise mistake from error
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise IncompleteError(
            f"{job.stage} failed ({reason[0][:300]}); its checkpoints are kept in {folder.path}/{job.stage}: "
            "start the same command again to go on, or remove that folder to train the stage anew"
        ) from error
    # Ray keeps the latest checkpoint beside the best ones, to go on from; of equal ones it keeps the later.
    kept = sorted(
        result.best_checkpoints, key=lambda kept: (kept[1]["val_accuracy"], kept[1]["epoch"]), reverse=True
    )
    candidates = [
        Candidate(
            int(metrics["epoch"]),
            float(metrics["val_accuracy"]),
            f"{folder.path}/{job.stage}/{str(checkpoint.path).rstrip('/').rsplit('/', 1)[-1]}",
        )
        for checkpoint, metrics in kept[:BEST_KEPT]
    ]
    folder.finish_stage(job.stage, candidates)
    return candidates


def room_waited_for(stage: str, setup: StageSetup) -> list[str]:
    """In words what the workers of a stage want, while there is no room for them."""
    wanted = [setup.resources] * setup.workers
    # The id of a group ends with that of the job that wants it.
    job = ray.get_runtime_context().get_job_id()
    waiting = any(
        group["state"] in ("PENDING", "RESCHEDULING") and list(group["bundles"].values()) == wanted
        for name, group in placement_group_table().items()
        if name.endswith(job)
    )
    each = "1 CPU and 1 GPU" if setup.gpu else "1 CPU"
    return [f"{stage} waits for nodes: {setup.workers} workers want {each} each"] if waiting else []


class _Trainer(TorchTrainer):
    """Ray Train's trainer, which leaves the signals to the verb, and starts no process without a use.

    Its own handler of SIGINT waits for its controller, without end if that is not well, and ends the process
    with the code of success.
    """

    _controller: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        """What Ray Train does beside training, without what would start a process for nothing."""
        needless = {DATASETS}
        if ray._private.worker._global_node.webui_url is None:
            needless.add(CLEANER)
        return [one for one in super()._create_default_callbacks() if type(one).__name__ not in needless]

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    @contextmanager
    def ended_with_this(self) -> Iterator[None]:
        """End the training, if it goes on, with whatever ends a ``with`` block: Ray may go on after it."""
        try:
            yield
        except BaseException:
            if self._controller is not None:
                ray.kill(self._controller)
            raise


def stage_trainer(
    function: Callable[[dict[str, StageJob]], None], job: StageJob, folder: RunFolder, setup: StageSetup
) -> _Trainer:
    """Ray Train's workers for one stage, each of which calls the function.

    Parameters
    ----------
    function : callable
        Such as `train_stage`; it gets the job as ``{"job": job}``.
    """
    # Ray keeps checkpoints by pyarrow: a store's endpoint is for us to tell it.
    filesystem, place = storage.arrow_path(folder.path)
    return _Trainer(
        function,
        train_loop_config={"job": job},
        torch_config=CheckedTorchConfig(backend="nccl" if setup.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=setup.workers,
            use_gpu=setup.gpu,
            resources_per_worker=setup.resources,
        ),
        run_config=RunConfig(
            name=job.stage,
            storage_path=place,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(
                num_to_keep=BEST_KEPT,
                checkpoint_score_attribute="val_accuracy",
                checkpoint_score_order="max",
            ),
            failure_config=FailureConfig(max_failures=STAGE_FAILURES),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={} if setup.gpu else {"env_vars": KEEP_MEMORY},
        ),
    )
