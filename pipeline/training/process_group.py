"""The process group of a stage's workers, begun only once each of them can use what it was given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

from hiwl_core.device import check_device

__all__ = ["CheckedTorchConfig"]

_TorchBackend: Any = TorchConfig().backend_cls


class _CheckedBackend(_TorchBackend):
    """Torch's backend, which first looks at the workers' GPUs."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Check, then connect; what the check raises Ray Train does not try again."""
        if backend_config.backend == "nccl":
            worker_group.execute(check_device)
        super().on_start(worker_group, backend_config)


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
