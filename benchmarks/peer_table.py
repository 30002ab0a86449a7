"""What `benchmarks/peers.py` makes of its measurements: the labels compared, and the table."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from measuring import versions_of
from torch.utils.flop_counter import FlopCounterMode

from hiwl_core.bundle import ModelBundle
from hiwl_core.cascade import combine_stages

__all__ = ["HIWL", "agreement", "facts_of", "table_of"]

HIWL, SAYS = "hiwl", "hiwl as it says"
LIBRARIES = ("hiwl", "torch", "torchvision", "ray", "openvino", "pillow", "simplejpeg")


def agreement(catalog: pd.DataFrame, peer: pd.DataFrame, bundle: ModelBundle) -> dict[str, Any]:
    """In how many of the different images the labels differ, how close to ties those are, and by how much
    the probabilities differ."""
    both = catalog.drop_duplicates("path").merge(peer, on="path", suffixes=("", "_peer"), validate="1:1")
    columns = [f"p_{name.lower()}" for name in bundle.taxonomy.classes]
    theirs = combine_stages(
        {name: np.stack(both[name]) for name in bundle.taxonomy.stages},
        bundle.member_frequencies,
        bundle.taxonomy,
    )
    change = np.abs(both[columns].to_numpy() - theirs.probabilities).max(axis=1)
    other = (both["label"] != both["label_peer"]).to_numpy()
    return {
        "images": len(both),
        "labels_differ": int(other.sum()),
        "margins": sorted(both["margin"][other].round(7).tolist()),
        # A changed route changes probabilities by more than rounding does.
        "largest_change_of_probability": float(change[~other].max(initial=0.0)),
    }


def table_of(runs: pd.DataFrame, agreements: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Medians, smallest and largest; and how many times faster hiwl is, within each round."""
    says = runs[runs["subject"] == HIWL].assign(subject=SAYS)
    says["rate"] = says["said_rate"]
    runs = pd.concat([runs[runs["subject"] == HIWL], says, runs[runs["subject"] != HIWL]])
    ours = runs[runs["subject"] == HIWL].set_index("round")["rate"]
    lines = []
    for subject, some in runs.groupby("subject", sort=False):
        some = some.set_index("round")
        lines.append(
            {
                "": subject,
                "images": int(some["images"].iloc[0]),
                "images/s": _spread(some["rate"], 1),
                "hiwl / it": _spread(ours / some["rate"], 2),
                "hiwl as it says / it": _spread(says.set_index("round")["rate"] / some["rate"], 2),
                "whole s": _spread(some["whole"], 1),
                "PSS MiB": round(some["pss"].median()),
                "RSS MiB": round(some["rss"].median()),
                "labels differ": agreements.get(str(subject), {}).get("labels_differ", ""),
            }
        )
    return pd.DataFrame(lines)


def _spread(values: pd.Series, digits: int) -> str:
    return f"{values.median():.{digits}f} ({values.min():.{digits}f}-{values.max():.{digits}f})"


def facts_of(bundle: ModelBundle, images: list[Path], catalog: pd.DataFrame) -> dict[str, Any]:
    """What was run on what."""
    stage = bundle.stages["stage1"]
    size = stage.preprocessing.input_size
    network = stage.network(len(bundle.taxonomy.stage_classes("stage1")))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(torch.zeros(1, 3, size, size))
    return {
        "backbone": stage.backbone,
        "input_size": size,
        "center_crop": stage.preprocessing.center_crop,
        "multiply_adds": counter.get_total_flops() // 2,
        "different_images": len(images),
        "labels": catalog["label"].value_counts().to_dict(),
        "routed_to_stage2": float(catalog["p_stage2_css"].notna().mean()),
        # An image's label must not depend on the batch that it is in.
        "images_with_several_labels": int((catalog.groupby("path")["label"].nunique() > 1).sum()),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "versions": versions_of(LIBRARIES),
    }
