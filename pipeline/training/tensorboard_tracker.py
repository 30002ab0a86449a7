"""TensorBoard's event files of a training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hiwl_core.errors import UserError, if_missing
from hiwl_core.recipe_text import recipe_settings
from pipeline import storage
from pipeline.training.checks import TrainingPlan

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Curves by stage and metric, and the recipe as a text.

    The event files are made anew whenever the run is started: they say the same as its tables.

    Parameters
    ----------
    place : str
        A folder of this machine; empty for ``tensorboard`` in the run folder.
    plan : TrainingPlan

    Raises
    ------
    UserError
        If TensorBoard is not installed, or the folder is not of this machine.
    """

    def __init__(self, place: str, plan: TrainingPlan) -> None:
        with if_missing("--track tensorboard needs the package tensorboard: pip install 'hiwl[tensorboard]'"):
            from torch.utils.tensorboard import SummaryWriter
        folder = place or f"{plan.folder.path}/tensorboard"
        if "://" in folder:
            raise UserError(
                f"--track tensorboard: event files are written to this machine, and {folder} is elsewhere: "
                "name a folder, as in tensorboard:logs"
            )
        self._folder = Path(
            storage.absolute(folder), "" if not place else plan.folder.path.rsplit("/", 1)[-1]
        )
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(self._folder))
        settings = recipe_settings(plan.recipe.to_dict())
        lines = [f"| {name} | {value} |" for name, value in settings.items()]
        self._writer.add_text("recipe", "\n".join(["| setting | value |", "|---|---|", *lines]))
        self._writer.flush()

    def told(self, stage: str) -> int:
        """None: all is told anew."""
        return 0

    def epoch(self, stage: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """A point on each curve."""
        for name, value in metrics.items():
            self._writer.add_scalar(f"{stage}/{name}", value, epoch)
        self._writer.flush()

    def finish(self, metrics: Mapping[str, float], bundle: str) -> None:
        """The chosen pair's scores."""
        for name, value in metrics.items():
            self._writer.add_scalar(f"chosen/{name}", value, 0)
        self._writer.add_text("bundle", bundle)

    def close(self, whole: bool) -> None:
        """End the file."""
        self._writer.close()
