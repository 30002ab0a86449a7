"""One stage by Ray Train: its workers and what each does, checkpoints, and what is tried again."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util import placement_group_table
from safetensors.torch import save_file
from torch import distributed

from hiwl_core.device import ComputePlan, check_device, choose_compute
from hiwl_core.errors import IncompleteError, last_line
from hiwl_core.training import StageLearner
from pipeline import storage
from pipeline.cores import usable_cores
from pipeline.mistakes import user_error_in
from pipeline.retry_policy import STAGE_FAILURES
from pipeline.training.checks import StageSetup
from pipeline.training.run_folder import BEST_KEPT, WEIGHTS, Candidate, RunFolder
from pipeline.training.stage_epochs import History, StageJob, best_weights, run_epochs
from pipeline.waiting import waiting_lines

__all__ = [
    "CheckedTorchConfig",
    "fit_stage",
    "room_waited_for",
    "stage_trainer",
    "train_stage",
    "worker_compute",
]

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
LOOPBACK, LOOPBACK_INTERFACE = "127.0.0.1", "lo0" if sys.platform == "darwin" else "lo"

_TorchBackend: Any = TorchConfig().backend_cls
STATE = "state.pt"


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
        raise IncompleteError(
            f"{job.stage} failed ({last_line(error)[:300]}); its checkpoints are kept in "
            f"{folder.path}/{job.stage}: start the same command again to go on, or remove that folder to "
            "train the stage anew"
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


class _CheckedBackend(_TorchBackend):
    """Torch's backend, which first looks at the workers' GPUs."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Check, then connect; what the check raises Ray Train does not try again."""
        if backend_config.backend == "nccl":
            worker_group.execute(check_device)
        elif worker_group.execute_single(0, ray.util.get_node_ip_address) == LOOPBACK:
            worker_group.execute(_meet, f"workers-{secrets.token_hex(8)}", len(worker_group))
            return
        super().on_start(worker_group, backend_config)


def _meet(name: str, workers: int) -> None:
    """Begin the process group of workers on a Ray of this machine alone, where nobody else can join it.

    By a file: the port at which torch's workers meet else is open to all the network, and asks for no token.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK_INTERFACE)
    folder = ray._private.worker._global_node.get_session_dir_path()
    store = distributed.FileStore(os.path.join(folder, name), workers)
    rank = ray.train.get_context().get_world_rank()
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=workers)


@dataclass
class CheckedTorchConfig(TorchConfig):
    """Ray Train's settings of the process group, with `hiwl_core.device.check_device` before it starts.

    NCCL fails over a GPU that cannot be used after half a minute, without a word on why, and is tried again.
    Here each start of the workers is checked, since those of a later one may be on other nodes.
    """

    @property
    def backend_cls(self) -> type:
        """What Ray Train starts in its workers."""
        return _CheckedBackend


def train_stage(config: dict[str, StageJob]) -> None:
    """The training function of Ray Train's workers."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    report = partial(_report, rank=rank)
    run_epochs(config["job"], worker_compute(), _resume, report, rank, world_size)


def worker_compute() -> ComputePlan:
    """The device of this worker, and the threads of its process set for it."""
    compute = choose_compute(ray.train.torch.get_device())
    if compute.device.type == "cpu":
        # Ray grants a worker one thread for each logical CPU; training wants the cores of the machine.
        workers_here = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, usable_cores() // workers_here))
    return compute


def _resume(learner: StageLearner) -> History:
    """Load the last checkpoint, if there is one; the table of the epochs that are done."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        state = torch.load(os.path.join(folder, STATE), map_location="cpu", weights_only=True)
    learner.load_state_dict(state["learner"])
    history: History = state["history"]
    return history


def _report(learner: StageLearner, history: History, rank: int) -> None:
    metrics = {"epoch": history[-1]["epoch"], "val_accuracy": history[-1]["val_accuracy"]}
    if rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_file(best_weights(learner), Path(folder) / WEIGHTS)
        torch.save({"learner": learner.state_dict(), "history": history}, Path(folder) / STATE)
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"epoch_{metrics['epoch']:04d}",
        )
