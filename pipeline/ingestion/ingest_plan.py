"""From a source and the options of an ingest to a stored plan, never with all objects in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from hiwl_core.errors import UserError
from hiwl_core.taxonomy import Taxonomy
from pipeline.ingestion.folder import IngestFolder
from pipeline.ingestion.ingest_options import IngestOptions
from pipeline.ingestion.inventory import Inventory
from pipeline.ingestion.labels import OTHER_CLASSES, LabelsTable, read_labels
from pipeline.ingestion.shard_plan import IngestPlan, cut_shards, plan_lines, write_objects
from pipeline.ingestion.source import Listing
from pipeline.ingestion.source_parquet import ParquetColumns, describe_tables, iter_objects
from pipeline.progress import progress, say
from pipeline.shards.cutout_shards import SHARD_SCHEMA
from pipeline.storage import Entry

__all__ = ["check_unchanged", "make_plan"]

NO_IMAGE = "no image"
FILES_A_STEP = 1000


def make_plan(
    listing: Listing,
    options: IngestOptions,
    folder: IngestFolder,
    claim: Callable[[], object] = lambda: None,
) -> tuple[IngestPlan, ParquetColumns]:
    """Plan the shards of a source and store the plan in their folder.

    Parameters
    ----------
    listing : Listing
    options : IngestOptions
    folder : IngestFolder
    claim : callable
        Makes the folder this run's; called when nothing is wrong, before anything is written.

    Raises
    ------
    UserError
        For mistakes in the source, the labels table and the columns, before anything is written; if another
        run planned the folder meanwhile.
    """
    place, parquet = listing.place, ParquetColumns()
    labels = _read_labels(options)
    with Inventory(options.bands) as inventory:
        inventory.add_images(_with_progress(listing.iter_images()), place if options.class_folders else None)
        if listing.tables:
            parquet = describe_tables(listing.tables, options.columns, options.carry)
            for objects, integers in iter_objects(listing.tables, options.columns, parquet.has_label):
                inventory.add(objects, integers)
        if options.bands and options.rgb:
            inventory.gather_sets(options.bands, options.rgb.bands)
        if options.class_folders and not inventory.classes():
            raise UserError(
                f"--class-folders: no image lies in a folder of its class, as in {place}/barred/1.jpg: "
                "sort them, or give their classes in a table with --labels"
            )
        if options.class_folders and inventory.identify_by_class():
            say("files of one name lie in different folders: the object ids are CLASS/NAME")
        inventory.check_ids()
        inventory.rename_classes(options.renamed)
        if labels is None:
            _check_classes(place, inventory.classes(), options.taxonomy, options.class_folders)
        _check_carry(place, parquet, labels, options.carry)
        if labels is not None and not listing.tables:
            labels = labels.without_endings()
        without_image = inventory.join(labels, options.name)
        rows, unlabeled = inventory.count()
        if options.split and unlabeled == rows:
            raise UserError(
                f"--split {options.split}: no object of {place} has a class: give a table with --labels, or "
                "sort the images by --class-folders"
            )
        if options.split:
            inventory.split(options.split)
        drop = options.drop_unlabeled
        if drop and unlabeled == rows:
            raise UserError(f"no object of {place} has a label, and --drop-unlabeled leaves out all")
        claim()
        name = folder.begin("hiwl ingest")
        shards = cut_shards(inventory.iter_planned(drop), options.shard_rows, options.shard_bytes)
        series = write_objects(folder.objects_of(name), shards, labels)
    plan = IngestPlan(
        listing.kind,
        place,
        listing.digest(),
        options.describe(),
        series,
        images=listing.images,
        unlabeled=0 if drop else unlabeled,
        dropped=unlabeled if drop else 0,
        without_image=len(without_image),
        other_files=listing.other_files,
        objects=name,
    )
    folder.write_plan(plan, plan_lines([identifier, "", NO_IMAGE] for identifier in without_image))
    return plan, parquet


def check_unchanged(
    plan: IngestPlan, listing: Listing, options: IngestOptions, folder: IngestFolder
) -> ParquetColumns:
    """Check that a stored plan was made from the same files and options.

    Raises
    ------
    UserError
        Naming the first difference.
    """
    # The options first: they cost no listing.
    now = IngestPlan(plan.kind, listing.place, plan.digest, options.describe())
    folder.check_same(plan, now)
    for _ in _with_progress(listing.iter_images()):
        pass
    folder.check_same(
        plan, IngestPlan(listing.kind, now.place, listing.digest(), now.settings, images=listing.images)
    )
    # All tables have the same columns: they had when they were planned, and have not changed.
    first = listing.tables[:1]
    return describe_tables(first, options.columns, options.carry) if first else ParquetColumns()


def _with_progress(entries: Iterator[Entry]) -> Iterator[Entry]:
    with progress("listing", None) as advance:
        for number, entry in enumerate(entries, start=1):
            yield entry
            if number % FILES_A_STEP == 0:
                advance(FILES_A_STEP)


def _read_labels(options: IngestOptions) -> LabelsTable | None:
    if options.labels is None:
        return None
    id_column, class_column = options.labels_id_column, options.labels_class_column
    return read_labels(
        options.labels,
        id_column,
        class_column,
        options.carry,
        options.taxonomy,
        options.split,
        options.renamed,
    )


def _check_classes(place: str, classes: list[str], taxonomy: Taxonomy, folders: bool) -> None:
    try:
        taxonomy.encode(classes)
    except UserError as error:
        mend = OTHER_CLASSES if folders else f"name the classes' column with --label-column; {OTHER_CLASSES}"
        raise UserError(f"{place}: {error}; {mend}") from None


def _check_carry(
    place: str, parquet: ParquetColumns, labels: LabelsTable | None, carry: Iterable[str]
) -> None:
    """Check that each column to carry is somewhere."""
    in_source = {column for column, _ in parquet.carried}
    in_labels = set(labels.carried) if labels else set()
    for column in carry:
        if column in SHARD_SCHEMA.names:
            raise UserError(f"--carry {column}: every shard has this column already, leave the option out")
        if column not in in_source | in_labels:
            tables = [labels.place] if labels else []
            tables += [place] if parquet.image else []
            where = " or ".join(tables) or "the images: give --labels"
            raise UserError(f"no column {column!r} to carry in {where}")
