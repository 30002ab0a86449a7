"""Calibrate a trained bundle and quantize its networks, into a bundle of its own."""

from __future__ import annotations

from dataclasses import replace

from hiwl_core.bundle import ModelBundle, bundle_files
from hiwl_core.errors import UserError
from hiwl_core.fitted import Views
from pipeline import storage
from pipeline.classification.shard_classifier import bundle_place, read_bundle
from pipeline.cluster import connected
from pipeline.relay import relayed_lines
from pipeline.shards.cutout_shards import CONTRACT_NAMES, Columns, list_shards
from pipeline.shards.fingerprints import fingerprint
from pipeline.shards.wanted_scale import AS_IT_IS, kept_scale
from pipeline.training.cutout_store import load_cutouts
from pipeline.training.finishing import finished
from pipeline.training.labeled_shards import check_labeled

__all__ = ["optimize"]


def optimize(
    bundle_path: str,
    data: str,
    val: str,
    out: str,
    columns: Columns = CONTRACT_NAMES,
    views: Views | None = None,
    half: bool = False,
    gpu: bool | None = None,
) -> ModelBundle:
    """Fit to a bundle what the end of a training fits; see `hiwl_core.finishing`.

    Parameters
    ----------
    bundle_path : str
    data, val : str
        Labeled shards of the training and of the validation part.
    out : str
        Folder of the new bundle.
    columns : Columns
        What the columns of the shards are called.
    views : {1, 2, 4, 8, "adaptive"}, optional
        Of the new bundle; default: as before.
    half : bool
        Round the weights to float16 first, and keep them so: everything is fitted to what is kept.
    gpu : bool, optional
        Default: if the cluster has any now.

    Raises
    ------
    UserError
        Before any work: for missing files, columns or classes, and a folder that holds a bundle already.
    """
    bundle = read_bundle(bundle_path)
    place = storage.absolute(out).rstrip("/")
    if place == bundle_place(bundle_path) or storage.exists(f"{place}/bundle.json"):
        raise UserError(f"--out {out} holds a model bundle already: choose another folder")
    parts = {
        name: check_labeled(list_shards(shards), columns, bundle.taxonomy, kept_scale(bundle.scale, AS_IT_IS))
        for name, shards in (("train", data), ("val", val))
    }
    if half:
        bundle = bundle.in_half()
    # Figures of any galaxies that something was chosen or fitted by are to be cross-fitted.
    seen = [*bundle.provenance.get("val", ()), *map(fingerprint, parts["val"].shards)]
    bundle = replace(bundle, provenance={**bundle.provenance, "val": list(dict.fromkeys(seen))})
    with connected(min_cpus=2) as cluster, relayed_lines() as relay:
        stores = {
            name: load_cutouts(labeled, bundle.taxonomy, bundle.smallest_cutout, bundle.rgb)
            for name, labeled in parts.items()
        }
        use_gpu = cluster.takes_gpus(gpu)
        made = finished(
            replace(bundle, views=bundle.views if views is None else views),
            stores["train"],
            stores["val"],
            use_gpu,
            relay,
        )
    for file, content in bundle_files(made).items():
        storage.write_bytes(f"{place}/{file}", content)
    return made
