"""The process group of a stage's workers, begun only once each of them can use what it was given."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import dataclass
from typing import Any

import ray.train
from ray.train.torch import TorchConfig
from torch import distributed

from hiwl_core.device import check_device

__all__ = ["CheckedTorchConfig"]

LOOPBACK, LOOPBACK_INTERFACE = "127.0.0.1", "lo0" if sys.platform == "darwin" else "lo"

_TorchBackend: Any = TorchConfig().backend_cls


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
