"""A `ray.data.Dataset` in hand, classified: another one, with the columns of a catalog.

::

    import ray
    from pipeline.classification.classify_dataset import classify_dataset

    cutouts = ray.data.read_parquet("survey/", columns=["object_id", "image"])
    classify_dataset("galaxyzoo", cutouts).filter(expr="p_spi > 0.9").write_parquet("spirals/")
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import torch
from ray.data import ActorPoolStrategy, Dataset

from hiwl_core.errors import UserError
from pipeline.catalog.parts import part_table
from pipeline.classification.catalog_contents import AS_VALIDATED, ESTIMATE, CatalogContents
from pipeline.classification.computing import WHATEVER_THERE_IS, Computing
from pipeline.classification.decided import checked_contents, classifier_for
from pipeline.classification.shard_classifier import bundle_place, read_bundle
from pipeline.cluster import CPUS_AN_ACTOR, connected
from pipeline.shards.cutout_shards import CONTRACT_NAMES, Columns

__all__ = ["classify_dataset"]

ROWS_A_BATCH = 1024


def classify_dataset(
    bundle_path: str,
    dataset: Dataset,
    columns: Columns = CONTRACT_NAMES,
    contents: CatalogContents = AS_VALIDATED,
    computing: Computing = WHATEVER_THERE_IS,
) -> Dataset:
    """Classify the rows of a dataset as they stream by.

    Unlike `pipeline.classification.classify.classify` this writes nothing, so that it can neither be resumed
    nor verified, and looks for no repeated ids.

    Parameters
    ----------
    bundle_path : str
        Folder of the model bundle, or the name of one in the box.
    dataset : ray.data.Dataset
        With a column of encoded images: JPEG, PNG or FITS. Ids and positions are taken over if there are any.
    columns : Columns
        What its columns are called.
    contents, computing
        As for `classify`; by default there are as many actors as the cluster has room for now, beside one CPU
        for what comes before them.

    Returns
    -------
    ray.data.Dataset
        A row for each row: the columns of a catalog, then those carried.

    Raises
    ------
    UserError
        For a bundle that is not whole or cannot do what is asked for, a carried column with a name of the
        catalog's, a prior that would have to be estimated.
    """
    bundle = read_bundle(bundle_path)
    contents = checked_contents(contents, bundle, columns)
    if contents.prior == ESTIMATE:
        raise UserError("prior 'estimate': a stream has no rows to look at before; give class shares")
    with connected() as cluster:
        use_gpu = cluster.takes_gpus(computing.gpu)
        # What the dataset is made from must run too: actors that take all CPUs would wait for it for ever.
        spare = max(1, cluster.cpus - 1)
        cpus = min(cluster.cpus_an_actor(True), spare) if use_gpu else min(CPUS_AN_ACTOR, spare)
        room = min(cluster.gpus or 1, spare // cpus) if use_gpu else spare // cpus
        return dataset.map_batches(
            _RowStage,
            fn_constructor_args=(
                bundle_place(bundle_path),
                columns,
                contents,
                cpus,
                use_gpu,
                computing.engine,
            ),
            batch_size=ROWS_A_BATCH,
            batch_format="pyarrow",
            num_cpus=cpus,
            num_gpus=int(use_gpu),
            compute=ActorPoolStrategy(size=computing.workers or max(1, room)),
        )


class _RowStage:
    """Rows in, catalog rows out."""

    def __init__(
        self,
        bundle_path: str,
        columns: Columns,
        contents: CatalogContents,
        cpus: int,
        use_gpu: bool,
        engine: str,
    ) -> None:
        self._bundle = read_bundle(bundle_path)
        self._columns, self._contents, self._cpus = columns, contents, cpus
        self._classifier = classifier_for(contents, self._bundle, engine, use_gpu, cpus)

    def __call__(self, batch: pa.Table) -> pa.Table:
        torch.set_num_threads(self._cpus)
        contents, names = self._contents, self._columns.standard_names()
        types = {
            "object_id": pa.int64(),
            "ra": pa.float64(),
            "dec": pa.float64(),
            "pixel_scale": pa.float32(),
        }
        rows = {
            name: batch[names[name]] if names[name] in batch.column_names else pa.nulls(len(batch), kind)
            for name, kind in types.items()
        }
        rows |= {name: batch[name] for name in {*contents.carry, *contents.scale.carry}}
        images = batch[self._columns.image]
        rows["image"] = pc.struct_field(images, "bytes") if pa.types.is_struct(images.type) else images
        statuses, prediction = self._classifier.classify(contents.scale.cutouts(pa.table(rows)))
        if contents.keep_truth:
            rows["label"] = batch[self._columns.label]
        bundle, table = self._bundle, pa.table(rows)
        return part_table(
            table,
            statuses,
            prediction,
            bundle.taxonomy,
            bundle.model_id,
            contents.carry,
            contents.keep_truth,
        )
