"""What runs on GPUs, on a machine without one: Ray is told of a GPU, and its workers compute on the CPU.

python -m tests.fake_gpu MODEL TRAIN VAL OUT

Everything is as with a GPU, all that Ray refuses among it, but for what a process computes on and how the
processes of a training speak to each other.
"""

from __future__ import annotations

import sys
from typing import Any

import ray

from hiwl_core import device

__all__ = ["pretend"]


def pretend() -> None:
    """Have this process take its CPU for a GPU; Ray calls it in each worker before anything else."""
    import ray.train.torch
    import torch
    from ray.train.v2.torch import train_loop_utils
    from torch import distributed

    choose, begin = device.choose_compute, distributed.init_process_group

    def choose_cpu(asked: torch.device | None = None) -> device.ComputePlan:
        return choose(torch.device("cpu"))

    def begin_gloo(backend: str | None = None, *arguments: Any, **settings: Any) -> None:
        begin("gloo", *arguments, **settings)

    device.check_device = lambda: None
    device.choose_compute = choose_cpu
    distributed.init_process_group = begin_gloo
    ray.train.torch.get_device = train_loop_utils.get_device = lambda: torch.device("cpu")


def main(model: str, train_shards: str, val: str, out: str) -> None:
    """Train, evaluate and classify with a GPU for each worker."""
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": "tests.fake_gpu.pretend"},
    )
    # Not above: a worker that imports this is to import nothing that it changes.
    import hiwl
    from tests.conftest import TINY

    changes = [*TINY, "stage1.epochs=1", "stage2.epochs=1", "finish=calibration"]
    run = hiwl.train(
        train_shards, val, hiwl.training_recipe("demo", overrides=changes), f"{out}/run", workers=2, gpu=True
    )
    hiwl.evaluate(run.bundle, val, f"{out}/scores", computing=hiwl.Computing(workers=1, gpu=True))
    for where in ("gpu-nodes", "all-nodes"):
        hiwl.classify(
            model,
            train_shards,
            f"{out}/{where}",
            computing=hiwl.Computing(workers=1, gpu=True, decode_on=where),
        )
    hiwl.classify(
        model, train_shards, f"{out}/cpu", computing=hiwl.Computing(workers=1, gpu=False, engine="torch")
    )
    shards = ray.data.read_parquet(val, columns=["object_id", "image"])
    classified = hiwl.classify_dataset(model, shards, computing=hiwl.Computing(workers=1, gpu=True))
    classified.write_parquet(f"{out}/dataset")
    hiwl.optimize(run.bundle, train_shards, val, f"{out}/optimized", gpu=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
