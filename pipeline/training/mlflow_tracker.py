"""A training as a run of MLflow."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from hiwl_core.bundle import load_bundle
from hiwl_core.errors import UserError, if_missing, words_of
from hiwl_core.recipe_text import recipe_settings
from pipeline import storage
from pipeline.training.checks import TrainingPlan

__all__ = ["EXPERIMENT", "MlflowTracker"]

EXPERIMENT = "hiwl"
NOTE = "mlflow.json"
# Of a parameter, and of parameters in a request, as MLflow limits them.
MOST_CHARACTERS, MOST_PARAMS = 500, 100
# What names of metrics may not have, such as the plus sign of CSS+EO.
OTHERS = re.compile(r"[^A-Za-z0-9_\-. :/]")
USUAL = "sqlite:///mlflow.db"
USED_BY_DEFAULT = {
    # A server that is not there is to be told of before the training, not after minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # Nothing is sent home.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class MlflowTracker:
    """The recipe as parameters, metrics by epoch, the bundle as an artifact.

    The run folder notes which run it is, so that a training that goes on goes on there.

    Parameters
    ----------
    place : str
        The tracking URI; empty for ``MLFLOW_TRACKING_URI``, else `USUAL` in the current folder.
    plan : TrainingPlan

    Raises
    ------
    UserError
        If MLflow is not installed, or does not answer there.
    """

    def __init__(self, place: str, plan: TrainingPlan) -> None:
        for name, value in USED_BY_DEFAULT.items():
            os.environ.setdefault(name, value)
        with if_missing("--track mlflow needs the package mlflow-skinny: pip install 'hiwl[mlflow]'"):
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        self._metric, self._param = Metric, Param
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        uri = place or os.environ.get("MLFLOW_TRACKING_URI") or USUAL
        note = f"{plan.folder.path}/{NOTE}"
        try:
            self._client = MlflowClient(tracking_uri=uri)
            self._run = self._noted(note, uri) or self._begun(plan, uri, note)
            self._client.update_run(self._run, status="RUNNING")
        # Of its stores each has its own.
        except Exception as error:
            words = words_of(error, 300)
            raise UserError(f"--track mlflow:{uri}: {words}") from None

    def _noted(self, note: str, uri: str) -> str | None:
        """The run that the folder has noted, if it is of this place and still there."""
        if not storage.exists(note):
            return None
        said = json.loads(storage.read_bytes(note))
        if said["uri"] != uri:
            return None
        run = self._client.get_run(said["run_id"])
        return None if run.info.lifecycle_stage == "deleted" else str(run.info.run_id)

    def _begun(self, plan: TrainingPlan, uri: str, note: str) -> str:
        known = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known else self._client.create_experiment(EXPERIMENT)
        name = plan.folder.path.rsplit("/", 1)[-1]
        run = self._client.create_run(experiment, run_name=name, tags={"run_folder": plan.folder.path})
        settings = {
            **recipe_settings(plan.recipe.to_dict()),
            **{name: str(plan.sources[name]) for name in ("data", "val")},
            "train_galaxies": str(plan.train.galaxies),
            "val_galaxies": str(plan.val.galaxies),
        }
        params = [self._param(name, value[:MOST_CHARACTERS]) for name, value in settings.items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run.info.run_id, params=params[start : start + MOST_PARAMS])
        storage.write_bytes(note, (json.dumps({"uri": uri, "run_id": run.info.run_id}) + "\n").encode())
        return str(run.info.run_id)

    def told(self, stage: str) -> int:
        """The last epoch in the history of the stage's loss."""
        history = self._client.get_metric_history(self._run, f"{stage}.train_loss")
        return max((point.step for point in history), default=0)

    def epoch(self, stage: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """A point of each metric."""
        self._log({f"{stage}.{name}": value for name, value in metrics.items()}, epoch)

    def finish(self, metrics: Mapping[str, float], bundle: str) -> None:
        """The chosen pair's scores, and the bundle."""
        self._log({f"chosen.{name}": value for name, value in metrics.items()}, 0)
        with tempfile.TemporaryDirectory() as folder:
            # The run folder may be in object storage.
            for path, _ in storage.list_files(bundle):
                name = path.rsplit("/", 1)[-1]
                Path(folder, name).write_bytes(storage.read_bytes(f"{bundle}/{name}"))
            self._client.log_artifacts(self._run, folder, "bundle")
            self._client.set_tag(self._run, "model_id", load_bundle(Path(folder)).model_id)

    def close(self, whole: bool) -> None:
        """End the run."""
        self._client.set_terminated(self._run, "FINISHED" if whole else "KILLED")

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        found = [self._metric(OTHERS.sub("-", name), value, now, step) for name, value in metrics.items()]
        self._client.log_batch(self._run, metrics=found)
