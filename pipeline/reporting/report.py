"""Report on a training run: score its bundle, draw its figures, and put all of it on one page.

OUT/report.html       the page, with every picture and table inside
OUT/report.json       what the report is of; written first, so that a folder of other making is refused
OUT/tables/           the tables as CSV
OUT/figures/          the figures as PNG and SVG
OUT/evaluation/       the scores and the catalog that they come from; see `pipeline.evaluation.evaluate`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.classification.catalog_contents import AS_VALIDATED, CatalogContents
from pipeline.classification.computing import WHATEVER_THERE_IS, Computing
from pipeline.evaluation.evaluate import Evaluation, evaluate
from pipeline.evaluation.galaxies import (
    confident_mistakes,
    galaxy_cards,
    galaxy_columns,
    least_certain,
    read_pictures,
)
from pipeline.in_notebooks import InNotebooks
from pipeline.lease import Lease
from pipeline.progress import say
from pipeline.reporting.facts import class_facts
from pipeline.reporting.finished_run import FinishedRun, read_run
from pipeline.reporting.page import Contents, render_report
from pipeline.reporting.pictures import check_drawing, choose_examples, draw
from pipeline.shards.cutout_shards import Columns, list_shards
from pipeline.shards.fingerprints import fingerprint
from pipeline.storage.own_folders import check_own
from pipeline.training.labeled_shards import check_labeled

__all__ = ["Report", "report"]

PAGE, NOTE = "report.html", "report.json"
OWN_NAMES = (PAGE, "tables", "figures", "evaluation")
MAKER = "hiwl report"
STAGES = "stages.csv"
CARDS, THUMBNAIL_PIXELS = 24, 160


@dataclass(frozen=True)
class Report(InNotebooks):
    """A report that was written.

    Parameters
    ----------
    page : str
        Path of the HTML file.
    size : int
        Bytes of it.
    files : tuple of str
        The tables and figures beside it, in the folder.
    evaluation : Evaluation
    """

    page: str
    size: int
    files: tuple[str, ...]
    evaluation: Evaluation


def report(
    run: str,
    out: str,
    val: str | None = None,
    columns: Mapping[str, str] | None = None,
    contents: CatalogContents = AS_VALIDATED,
    computing: Computing = WHATEVER_THERE_IS,
) -> Report:
    """Write the report of a run; one that is there already of the same model is made anew.

    Parameters
    ----------
    run : str
        Folder of a complete run; see `pipeline.training.run_folder`.
    out : str
        Folder of the report.
    val : str, optional
        Labeled shards to score on; default: those that the run was selected by, where it says they are.
    columns : mapping of str, optional
        Columns of these shards that are called otherwise than the run recorded, by the fields of `Columns`.
    contents, computing
        As `pipeline.classification.classify.classify`.

    Raises
    ------
    UserError
        Before any work: for a run that is not complete or does not say where its data are, a folder with
        files of other making, a package that is missing, and as `pipeline.evaluation.evaluate.evaluate`.
    IncompleteError
        If a shard could not be classified.
    """
    out = storage.absolute(out).rstrip("/")
    check_own(out, _note(out) is not None, (NOTE, *OWN_NAMES), "report")
    finished = read_run(run)
    shards_path = val or finished.sources.get("val")
    if shards_path is None:
        raise UserError(
            f"the run {run!r} did not record where its validation shards are: name them with --val"
        )
    named = replace(finished.columns(), **(columns or {}))
    shards = list_shards(shards_path)
    check_labeled(shards, named, finished.taxonomy)
    check_drawing()
    with Lease(out, "hiwl report", keep=False) as lease:
        check_own(out, _note(out) is not None, (NOTE, *OWN_NAMES), "report")
        _claim(out, finished)
        evaluation = evaluate(
            f"{finished.path}/bundle", shards_path, f"{out}/evaluation", named, contents, computing
        )
        lease.check()
        return _write(out, _contents(finished, evaluation, shards_path, shards, named), evaluation)


def _write(out: str, shown: Contents, evaluation: Evaluation) -> Report:
    files = {f"tables/{name}": content for name, content in shown.tables.items()}
    for picture in shown.drawings.pictures():
        files.update({f"figures/{name}": content for name, content in picture.files.items()})
    for name, content in files.items():
        storage.write_bytes(f"{out}/{name}", content)
    html = render_report(shown).encode()
    storage.write_bytes(f"{out}/{PAGE}", html)
    return Report(f"{out}/{PAGE}", len(html), tuple(files), evaluation)


def _contents(
    run: FinishedRun, evaluation: Evaluation, shards_path: str, shards: Sequence[str], columns: Columns
) -> Contents:
    galaxies, taxonomy = evaluation.galaxies, run.taxonomy
    mistakes, unsure = confident_mistakes(galaxies, CARDS), least_certain(galaxies, CARDS)
    examples = choose_examples(galaxies, taxonomy)
    wanted = pd.concat([mistakes, unsure, *examples])
    wanted = wanted[~wanted.index.duplicated()]
    say(f"reading {len(wanted):,} cutouts")
    pictures = read_pictures(wanted, columns)
    drawings = draw(run, evaluation, examples, pictures)
    shown = galaxy_columns(taxonomy)
    tables = {
        **run.files,
        "classes.csv": _csv(pd.DataFrame(class_facts(run, evaluation.confusion))),
        # The figures of an only stage are the model's.
        **{name: csv for name, csv in evaluation.files().items() if taxonomy.groups or name != STAGES},
        **drawings.tables,
        "mistakes.csv": _csv(mistakes[shown]),
        "least_certain.csv": _csv(unsure[shown]),
    }
    cards = [
        galaxy_cards(rows, pictures, taxonomy, run.bundle.rgb, THUMBNAIL_PIXELS)
        for rows in (mistakes, unsure)
    ]
    return Contents(
        run=run,
        evaluation=evaluation,
        shards=shards_path,
        fingerprints=[fingerprint(shard) for shard in shards],
        mistakes=cards[0],
        unsure=cards[1],
        tables=tables,
        drawings=drawings,
    )


def _claim(out: str, run: FinishedRun) -> None:
    """Take the folder for the report of this model."""
    begun = _note(out)
    if begun is not None and begun["model_id"] != run.bundle.model_id:
        raise UserError(
            f"{out} holds the report of another model ({begun['model_id']}, now {run.bundle.model_id}): "
            "choose another --out, or remove it"
        )
    note = {"made_by": MAKER, "model_id": run.bundle.model_id, "run": run.path}
    storage.write_bytes(f"{out}/{NOTE}", (json.dumps(note, indent=2, ensure_ascii=False) + "\n").encode())


def _note(out: str) -> dict[str, str] | None:
    """What a report that is there says of itself; None if there is none."""
    if not storage.exists(f"{out}/{NOTE}"):
        return None
    try:
        note = json.loads(storage.read_bytes(f"{out}/{NOTE}"))
        return note if note["made_by"] == MAKER and note["model_id"] else None
    except (ValueError, KeyError, TypeError):
        return None


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, float_format="%.6g").encode()
