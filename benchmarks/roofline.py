"""What limits a network on this CPU, and what would on a GPU? Arithmetic beside two measured limits.

    python benchmarks/roofline.py [--backbone efficientnet_b1] [--size 240] [--rate R] [--json FILE]

Counts the multiply-adds of one image and the bytes that its layers read and write, if each layer fetches its
input from memory and puts its output there. Measures what this machine does at best: products of two large
matrices (float32, all cores), and a copy of more memory than the caches hold. Their quotients are the rates
that arithmetic and memory allow; --rate is what `benchmarks/ceiling.py` measured, to be set against them. The
same counts against NVIDIA's figures for an H100 SXM (989 TFLOP/s dense bfloat16, 3.35 TB/s; data sheet of the
H100, 2023) say what a GPU allows, and so how many images/s its decoders must give.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hiwl_core.backbones import create_backbone

H100_FLOPS = 989e12
H100_BYTES = 3.35e12
MATRIX = 3072
COPIED_BYTES = 2**29
SECONDS = 3.0


def main() -> None:
    """Count, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="efficientnet_b1")
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--rate", type=float, help="measured images/s of the engine alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    figures = {"backbone": options.backbone, "size": options.size, **count(options.backbone, options.size)}
    figures |= {"gemm_gflops": gemm() / 1e9, "copy_gb": copy() / 1e9}
    flops, bytes32 = 2 * figures["multiply_adds"], figures["bytes_float32"]
    figures |= {
        "cpu_by_arithmetic": figures["gemm_gflops"] * 1e9 / flops,
        "cpu_by_memory": figures["copy_gb"] * 1e9 / bytes32,
        "h100_by_arithmetic": H100_FLOPS / flops,
        "h100_by_memory": 2 * H100_BYTES / bytes32,
    }
    print(f"{options.backbone} at {options.size} px: {figures['multiply_adds'] / 1e6:.0f} M multiply-adds,")
    print(f"  {bytes32 / 1e6:.0f} MB through memory in float32, were nothing kept in caches")
    print(f"this CPU: {figures['gemm_gflops']:.0f} GFLOP/s in matrix products, {figures['copy_gb']:.1f} GB/s")
    print(f"  arithmetic allows {figures['cpu_by_arithmetic']:8.0f} images/s")
    print(f"  memory allows     {figures['cpu_by_memory']:8.0f} images/s")
    if options.rate:
        figures["rate"] = options.rate
        share = options.rate / figures["cpu_by_arithmetic"]
        print(f"  measured          {options.rate:8.0f} images/s, {share:.0%} of the arithmetic")
    print(f"H100, bfloat16: arithmetic allows {figures['h100_by_arithmetic']:.0f} images/s,")
    print(f"  memory {figures['h100_by_memory']:.0f} images/s, were no layer fused with the next")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


@torch.inference_mode()
def count(backbone: str, size: int) -> dict[str, Any]:
    """Multiply-adds and bytes of one image, batch normalization and activations folded into their layers."""
    network = create_backbone(backbone, 4, input_size=size).eval()
    image = torch.zeros(1, 3, size, size)
    elements = 0

    def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal elements
        elements += inputs[0].numel() + output.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    with FlopCounterMode(display=False) as counter:
        network(image)
    return {"multiply_adds": counter.get_total_flops() // 2, "bytes_float32": 4 * elements}


def gemm() -> float:
    """FLOP/s of large matrix products."""
    a, b = torch.rand(MATRIX, MATRIX), torch.rand(MATRIX, MATRIX)
    return 2 * MATRIX**3 * repeated(lambda: torch.mm(a, b))


def copy() -> float:
    """Bytes/s read and written by a copy."""
    source = torch.rand(COPIED_BYTES // 4)
    target = torch.empty_like(source)
    return 2 * COPIED_BYTES * repeated(lambda: target.copy_(source))


def repeated(work: Callable[[], Any]) -> float:
    """How often a second something is done, after a first time."""
    work()
    begin, times = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < SECONDS:
        work()
        times += 1
    return times / passed


if __name__ == "__main__":
    main()
