"""Reproduce the paper's tables and figures: plan the trainings, run what is missing, write what they give.

A folder holds one reproduction: ``runs/`` with a run folder for each training (as `hiwl train` makes them),
and the tables and pictures. More of them can be added later with the same recipe and data: trainings that
they share are made once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from hiwl_core.errors import IncompleteError
from hiwl_core.recipe import load_recipe
from pipeline import storage
from pipeline.lease import Lease
from pipeline.reporting.pictures import check_drawing
from pipeline.reproduction.experiments import Experiment, Request, choose_experiments
from pipeline.reproduction.grid import folder_name, grid_runs
from pipeline.reproduction.pictures import PICTURES, PictureInputs
from pipeline.reproduction.reproduce_options import AS_THE_RECIPE_SAYS, ReproduceOptions
from pipeline.reproduction.run_queue import PlannedRun, run_grid
from pipeline.reproduction.scores import ScoredPart
from pipeline.reproduction.tables import TABLES, PaperTable
from pipeline.shards.cutout_shards import list_shards
from pipeline.storage.own_folders import check_own
from pipeline.training.checks import plan_training
from pipeline.training.labeled_shards import LabeledShards, check_labeled
from pipeline.training.leaks import check_apart

__all__ = ["MadeTable", "Reproduction", "reproduce"]

MARKER = "reproduction.json"

Runs = dict[tuple[str, str], list[PlannedRun]]


@dataclass(frozen=True)
class MadeTable:
    """A table or figure that was made.

    Parameters
    ----------
    title : str
    table : pandas.DataFrame or None
        As text, for people; None of a figure.
    sentences : tuple of str
        What it says and does not say.
    files : tuple of str
        Where it was written.
    """

    title: str
    table: pd.DataFrame | None
    sentences: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class Reproduction:
    """What one call made, and what it could not make.

    Parameters
    ----------
    made : dict of MadeTable
        By name; where there are backbones other than the recipe's, what is of one backbone has its name too.
    failed : dict of str
        Why trainings failed, by their folders.
    left_out : tuple of str
        Names of the tables and figures that need one of those.
    """

    made: dict[str, MadeTable]
    failed: dict[str, str]
    left_out: tuple[str, ...]

    def check(self) -> None:
        """Raise `IncompleteError` if a training failed."""
        if self.failed:
            folder, reason = next(iter(self.failed.items()))
            names = ", ".join(self.left_out)
            raise IncompleteError(
                f"{len(self.failed)} of the trainings failed, so {names} could not be made; the others are "
                f"kept, start the same command again to go on: {folder} ({reason})"
            )


def reproduce(
    names: Sequence[str],
    data: str,
    val: str,
    recipe_name: str,
    out: str,
    options: ReproduceOptions = AS_THE_RECIPE_SAYS,
) -> Reproduction:
    """Make tables and figures of the paper from trainings on one's own data.

    Parameters
    ----------
    names : sequence of str
        Keys of `pipeline.reproduction.experiments.EXPERIMENTS`, or ``"all"``.
    data, val : str
        Labeled shards to train on and to select checkpoints by.
    recipe_name : str
        The recipe that all trainings share, and so their scale.
    out : str
        Folder of the reproduction.
    options : ReproduceOptions
        Seeds, backbones, test galaxies and the like; default: as the recipe says.

    Returns
    -------
    Reproduction
        A training that failed costs what is made of it, and nothing else.

    Raises
    ------
    UserError
        Before any training: for what `pipeline.training.checks.plan_training` checks, of each training, for
        test shards that were trained on or selected by, and for a folder with other content.
    """
    test, columns = options.test, options.columns
    experiments = choose_experiments(names)
    if any(experiment.kind in PICTURES for experiment in experiments.values()):
        check_drawing()
    grid = grid_runs(experiments.values(), recipe_name, options)
    recipe = load_recipe(recipe_name, [*options.overrides, f"seed={options.seeds[0]}"])
    labeled = {
        path: check_labeled(list_shards(path), columns, recipe.taxonomy, options.scale)
        for path in dict.fromkeys((data, val, test or val))
    }
    check_apart({"--data": labeled[data]}, "--val", labeled[val])
    val_part = _part(val, labeled[val], on_test=False)
    test_part = None
    if test is not None:
        test_part = _part(test, labeled[test], on_test=True)
        check_apart({"--data": labeled[data], "--val": labeled[val]}, "--test", labeled[test])
    out = storage.absolute(out).rstrip("/")
    named = {
        full_name: (experiment, trainings)
        for name, experiment in experiments.items()
        for full_name, trainings in _shares(name, experiment, recipe.stage1.backbone, options.backbones)
    }
    files = [f"{name}.{ending}" for name in named for ending in ("csv", "md", "png", "svg")]
    check_own(out, storage.exists(f"{out}/{MARKER}"), files, "reproduce")
    request = Request(recipe, options, labeled[data].shards, val_part, test_part, out)
    parts: dict[tuple[str, str], dict[ScoredPart, None]] = defaultdict(dict)
    for experiment, trainings in named.values():
        for training in trainings:
            parts[training][request.scored(experiment)] = None
    given = (labeled[data], labeled[val])
    planned = [
        PlannedRun(
            run,
            plan_training(
                data, val, run.recipe, f"{out}/runs/{run.name}", columns, options.workers or 1, given
            ),
            tuple(parts[run.backbone, run.method]),
        )
        for run in grid
    ]
    with Lease(out, "hiwl reproduce", keep=False) as lease:
        check_own(out, storage.exists(f"{out}/{MARKER}"), files, "reproduce")
        storage.write_bytes(f"{out}/{MARKER}", b'{"format_version": 1}\n')
        failed = run_grid(planned, options)
        lease.check()
        return _made(named, planned, failed, request)


def _made(
    named: Mapping[str, tuple[Experiment, list[tuple[str, str]]]],
    planned: Sequence[PlannedRun],
    failed: dict[str, str],
    request: Request,
) -> Reproduction:
    """What can be made of the trainings that did not fail."""
    runs: Runs = defaultdict(list)
    for one in planned:
        runs[one.run.backbone, one.run.method].append(one)
    made, left_out = {}, []
    for name, (experiment, trainings) in named.items():
        chosen = {key: runs[key][:1] if experiment.one_seed else runs[key] for key in trainings}
        if any(one.folder in failed for of_seeds in chosen.values() for one in of_seeds):
            left_out.append(name)
        else:
            made[name] = _make(name, experiment, chosen, request)
    return Reproduction(made, failed, tuple(left_out))


def _part(path: str, labeled: LabeledShards, on_test: bool) -> ScoredPart:
    return ScoredPart(storage.absolute(path), labeled.shards, frozenset(labeled.fingerprints), on_test)


def _shares(
    name: str, experiment: Experiment, own: str, backbones: Sequence[str]
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The trainings of an experiment, or of each of its tables if backbones have their own; and the name."""
    trainings = experiment.resolved(own, backbones)
    if experiment.many_backbones or not trainings:
        yield name, trainings
        return
    for backbone in backbones or (own,):
        ending = "" if backbone == own else f"-{folder_name(backbone)}"
        yield f"{name}{ending}", [key for key in trainings if key[0] == backbone]


def _make(name: str, experiment: Experiment, chosen: Runs, request: Request) -> MadeTable:
    """Tabulate or draw one experiment from its runs, and write it."""
    files: dict[str, bytes] = {}
    table = None
    sentences: tuple[str, ...] = ()
    if experiment.kind in TABLES:
        paper_table = _table(experiment, chosen, request)
        table, sentences = paper_table.shown, paper_table.sentences
        files[f"{name}.csv"] = paper_table.numbers.to_csv(index=False, float_format="%.6f").encode()
        files[f"{name}.md"] = _markdown(experiment.title, paper_table).encode()
    if experiment.kind in PICTURES:
        from hiwl_core.figures import figure_files

        first_seed = {method: of_seeds[0].folder for (_, method), of_seeds in chosen.items()}
        inputs = PictureInputs(request, first_seed, request.scored(experiment))
        figure, shown = PICTURES[experiment.kind](inputs)
        files |= figure_files(figure, name)
        sentences += tuple(shown)
    for file, content in files.items():
        storage.write_bytes(f"{request.out}/{file}", content)
    return MadeTable(experiment.title, table, sentences, tuple(f"{request.out}/{file}" for file in files))


def _table(experiment: Experiment, chosen: Runs, request: Request) -> PaperTable:
    taxonomy, part = request.recipe.taxonomy, request.scored(experiment)
    scores = {key: [part.read(one.folder, taxonomy) for one in of_seeds] for key, of_seeds in chosen.items()}
    made = TABLES[experiment.kind](scores, taxonomy)
    galaxies = len(next(iter(scores.values()))[0].ids)
    facts = request.facts(experiment, galaxies)
    return PaperTable(made.numbers, made.shown, (*facts, *made.sentences))


def _markdown(title: str, table: PaperTable) -> str:
    """A table for a page of documentation."""
    header = list(table.shown.columns)
    rows = [header, ["---"] * len(header), *table.shown.astype(str).to_numpy().tolist()]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([f"# {title}", "", *lines, "", *(f"- {line}" for line in table.sentences), ""])
