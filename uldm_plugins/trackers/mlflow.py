"""MLflow."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from uldm_core.paths import inside, listed, refused
from uldm_core.protocols import RunStart
from uldm_core.recipe.compare import flattened
from uldm_core.run_folder.files import write_bytes, write_text
from uldm_plugins.shared.images import grid_of_ten
from uldm_plugins.trackers.shared import read_id, tagged

STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
LONGEST_PARAMETER = 6000
PARAMETERS_AT_ONCE = 100


class MLflow:
    """Logs to an MLflow server, or to a database in ``mlflow/`` of the run's folder.

    ``mlflow ui --backend-store-uri sqlite:///runs/NAME/mlflow/mlflow.db`` shows the latter. A run that goes
    on is gone on with there too.

    Args:
        uri: of the server or database; empty for MLFLOW_TRACKING_URI if it is set, else the run's folder.
        experiment: the experiment's name.
    """

    def __init__(self, uri: str = "", experiment: str = "uldm") -> None:
        self.uri = uri
        self.experiment = experiment

    def begin(self, run: RunStart) -> None:
        """Start or resume the run; the resolved recipe's values are its parameters."""
        folder = inside(run.folder.resolve(), "mlflow")
        listed(folder)  # a link in it is refused
        from mlflow import MlflowClient

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it logs every new table
        folder.mkdir(exist_ok=True)
        given = self.uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        database = folder / "mlflow.db"
        if not given and not database.exists():
            write_bytes(database, _empty_database())
        self.client = MlflowClient(given or f"sqlite:///{database}")
        self.id = self._resumed(folder / "run_id")
        if not self.id:
            self.id = self._created(run, artifacts=None if given else (folder / "artifacts").as_uri())
            write_text(folder / "run_id", self.id)
        if not given:
            self._refuse_images_elsewhere(folder)

    def _refuse_images_elsewhere(self, folder: Path) -> None:
        """Raise ``MistakeError`` if the database, which may be somebody else's, refuses."""
        place = str(self.client.get_run(self.id).info.artifact_uri)
        below = place.removeprefix(folder.as_uri() + "/")
        if below == place or "%" in below:
            what = f"images of the run are kept elsewhere: {place}"
            raise refused(folder / "mlflow.db", what, f"where it was moved, remove {folder} to begin anew")
        inside(folder, *below.split("/"))

    def _resumed(self, kept: Path) -> str:
        """Return the run that an earlier part of this one made there, or nothing."""
        from mlflow.exceptions import MlflowException

        if not kept.is_file():
            return ""
        run_id = read_id(kept)
        try:
            self.client.update_run(run_id, status="RUNNING")
        except MlflowException:  # made on another server, or deleted
            return ""
        return run_id

    def _created(self, run: RunStart, artifacts: str | None) -> str:
        from mlflow.entities import Param

        found = self.client.get_experiment_by_name(self.experiment)
        experiment = (
            found.experiment_id
            if found
            else self.client.create_experiment(self.experiment, artifact_location=artifacts)
        )
        made = self.client.create_run(
            experiment, run_name=run.name, tags={"command": run.command}
        ).info.run_id
        parameters = [
            Param(".".join(map(str, key)), str(value)[:LONGEST_PARAMETER])
            for key, value in flattened(run.recipe).items()
        ]
        for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
            self.client.log_batch(made, params=parameters[start : start + PARAMETERS_AT_ONCE])
        return str(made)

    def stage(self, name: str, step: int, total: int) -> None:
        """Do nothing: a value that comes again at a step is another value of it."""

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Log the values at the stage's step, all at once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_allowed(key), value, now, step) for key, value in tagged(stage, values).items()]
        self.client.log_batch(self.id, metrics=metrics)

    def images(self, stage: str, step: int, name: str, images: Tensor) -> None:
        """Log the grid as one image."""
        key = _allowed(f"{stage}/{name}", re.ASCII)
        self.client.log_image(self.id, grid_of_ten(images), key=key, step=step)

    def stage_done(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Log the stage's summary."""
        self.scalars(stage, 0, {"seconds": seconds, **summary})

    def end(self, state: str) -> None:
        """Say how the run ended."""
        self.client.set_terminated(self.id, STATUS[state])


@cache
def _empty_database() -> bytes:
    """Return a database without runs: MLflow takes a second to make one, which several runs may share."""
    from mlflow import MlflowClient

    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder, "mlflow.db")
        MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
        return path.read_bytes()


def _allowed(key: str, script: re.RegexFlag = re.UNICODE) -> str:
    """Return a name with ``_`` for what MLflow refuses; for images it accepts ASCII letters only."""
    return re.sub(r"[^\w./ -]", "_", key, flags=script)
