"""A `ray.data.Dataset` in hand, classified: another one, with the columns of a catalog.

::

    import ray
    from pipeline.classification.classify_dataset import classify_dataset

    cutouts = ray.data.read_parquet("survey/", columns=["object_id", "image"])
    classify_dataset("galaxyzoo", cutouts).filter(expr="p_spi > 0.9").write_parquet("spirals/")
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import torch
from ray.data import ActorPoolStrategy, Dataset

from hiwl_core.errors import UserError
from pipeline.catalog.parts import part_table
from pipeline.classification.classify import check_names
from pipeline.classification.model_settings import AS_VALIDATED, ESTIMATE, ModelSettings
from pipeline.classification.shard_classifier import bundle_place, read_bundle
from pipeline.cluster import CPUS_AN_ACTOR, connected
from pipeline.shards.cutout_shards import Columns

__all__ = ["classify_dataset"]

ROWS_A_BATCH = 1024


def classify_dataset(
    bundle_path: str,
    dataset: Dataset,
    columns: Columns | None = None,
    carry: Sequence[str] = (),
    stage2: str = "routed",
    workers: int | None = None,
    gpu: bool | None = None,
    engine: str = "auto",
    model: ModelSettings = AS_VALIDATED,
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
    columns : Columns, optional
        What its columns are called.
    carry : sequence of str
        Further columns to take over.
    stage2, gpu, engine, model
        As for `classify`.
    workers : int, optional
        Actors; default: as many as the cluster has room for now, beside one CPU for what comes before them.

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
    columns = columns or Columns()
    bundle = read_bundle(bundle_path)
    model = model.checked(bundle, stage2 == "always")
    if model.prior == ESTIMATE:
        raise UserError("prior 'estimate': a stream has no rows to look at before; give class shares")
    check_names(bundle.taxonomy, columns, carry)
    with connected() as cluster:
        use_gpu = cluster.gpus > 0 if gpu is None else gpu
        # What the dataset is made from must run too: actors that take all CPUs would wait for it for ever.
        spare = max(1, cluster.cpus - 1)
        cpus = min(cluster.cpus_an_actor(True), spare) if use_gpu else min(CPUS_AN_ACTOR, spare)
        room = min(cluster.gpus or 1, spare // cpus) if use_gpu else spare // cpus
        return dataset.map_batches(
            _RowStage,
            fn_constructor_args=(
                bundle_place(bundle_path),
                columns,
                tuple(carry),
                stage2,
                cpus,
                use_gpu,
                engine,
                model,
            ),
            batch_size=ROWS_A_BATCH,
            batch_format="pyarrow",
            num_cpus=cpus,
            num_gpus=int(use_gpu),
            compute=ActorPoolStrategy(size=workers or max(1, room)),
        )


class _RowStage:
    """Rows in, catalog rows out."""

    def __init__(
        self,
        bundle_path: str,
        columns: Columns,
        carry: Sequence[str],
        stage2: str,
        cpus: int,
        use_gpu: bool,
        engine: str,
        model: ModelSettings,
    ) -> None:
        self._bundle = read_bundle(bundle_path)
        self._columns, self._carry, self._cpus = columns, carry, cpus
        self._classifier = model.classifier(self._bundle, engine, use_gpu, cpus, stage2 == "always")

    def __call__(self, batch: pa.Table) -> pa.Table:
        torch.set_num_threads(self._cpus)
        images = batch[self._columns.image]
        if pa.types.is_struct(images.type):
            images = pc.struct_field(images, "bytes")
        statuses, prediction = self._classifier.classify(images.to_pylist())
        names = self._columns.standard_names()
        types = {"object_id": pa.int64(), "ra": pa.float64(), "dec": pa.float64()}
        rows = {
            name: batch[names[name]] if names[name] in batch.column_names else pa.nulls(len(batch), kind)
            for name, kind in types.items()
        }
        carried = [batch.schema.field(name).remove_metadata() for name in self._carry]
        table = pa.table(rows | {name: batch[name] for name in self._carry})
        bundle = self._bundle
        return part_table(table, statuses, prediction, bundle.taxonomy, bundle.model_id, carried)
