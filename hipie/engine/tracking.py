"""Experiment tracking through Detectron2's event writers: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage
from fvcore.common.registry import Registry

from hipie.engine.event_writers import WINDOW_SIZE
from hipie.errors import InputError

EVENT_WRITER_REGISTRY = Registry("EVENT_WRITER")
EVENT_WRITER_REGISTRY.__doc__ = """
Registry of functions `cfg -> EventWriter`, which `TRACKING.WRITERS` names.
"""
# MLflow refuses values of parameters that are longer.
MAX_PARAMETER_LENGTH = 500
NOT_IN_MLFLOW_NAMES = re.compile(r"[^\w./ -]", re.ASCII)


class TrackingError(InputError):
    """Event writer that `TRACKING.WRITERS` names and that cannot be used."""


def build_tracking_writers(cfg: CfgNode) -> list[EventWriter]:
    """Build the event writers of `TRACKING.WRITERS`.

    Args:
        cfg: reads TRACKING and OUTPUT_DIR.

    Raises:
        TrackingError: for an unknown name, or a package that is not installed.
    """
    for name in cfg.TRACKING.WRITERS:
        if name not in EVENT_WRITER_REGISTRY:
            registered = ", ".join(sorted(name for name, _ in EVENT_WRITER_REGISTRY))
            raise TrackingError(f'TRACKING.WRITERS names "{name}"; registered are {registered}')
    return [EVENT_WRITER_REGISTRY.get(name)(cfg) for name in cfg.TRACKING.WRITERS]


@EVENT_WRITER_REGISTRY.register()
def tensorboard(cfg: CfgNode) -> EventWriter:
    """Build Detectron2's writer of TensorBoard's files in `OUTPUT_DIR`."""
    return TensorboardXWriter(cfg.OUTPUT_DIR, WINDOW_SIZE)


@EVENT_WRITER_REGISTRY.register()
def wandb(cfg: CfgNode) -> EventWriter:
    """Build the writer of Weights & Biases."""
    return WandbWriter(cfg)


@EVENT_WRITER_REGISTRY.register()
def mlflow(cfg: CfgNode) -> EventWriter:
    """Build the writer of MLflow."""
    return MLflowWriter(cfg)


class TrackingWriter(EventWriter):
    """Base class of writers that send new scalars to a run of a tracking service.

    The run is started at the first report. Its identifier is stored in `OUTPUT_DIR`, and a resumed
    run continues the same one.

    Args:
        cfg: reads TRACKING and OUTPUT_DIR, and is sent as the run's configuration.

    Attributes:
        package: module of the service, and extra of this package that installs it.
    """

    package: str

    def __init__(self, cfg: CfgNode) -> None:
        try:
            self.service: Any = importlib.import_module(self.package)
        except ModuleNotFoundError as error:
            raise TrackingError(
                f"TRACKING.WRITERS names {self.package}, which is not installed: "
                f"pip install 'hipie[{self.package}]'"
            ) from error
        self.cfg = cfg
        self.folder = Path(cfg.OUTPUT_DIR).absolute()
        self.project = cfg.TRACKING.PROJECT
        self.name = cfg.TRACKING.RUN_NAME or self.folder.name
        self._started = False
        self._last_write = -1

    def write(self) -> None:
        """Send the scalars that are newer than those of the last call."""
        new_scalars = self._new_scalars()
        if not new_scalars:
            return
        if not self._started:
            self._start()
        for iteration in sorted(new_scalars):
            self.log(new_scalars[iteration], iteration)
        self._last_write = max(new_scalars)

    def close(self) -> None:
        """End the run of the service."""
        if self._started:
            self.finish()

    def _new_scalars(self) -> dict[int, dict[str, float]]:
        """Scalars by iteration; a median of 20 iterations where they are noisy."""
        result: dict[int, dict[str, float]] = {}
        scalars = get_event_storage().latest_with_smoothing_hint(WINDOW_SIZE)
        for name, (value, iteration) in scalars.items():
            if iteration > self._last_write:
                result.setdefault(iteration, {})[name] = float(value)
        return result

    def _start(self) -> None:
        """Start the service's run, or continue it where this training is resumed."""
        self._started = True
        file = self.folder / f"{self.package}_run_id"
        storage = get_event_storage()
        first = min(history.values()[0][1] for history in storage.histories().values())
        resumed = first > 0 and file.is_file()
        identifier = self.start_run(file.read_text(encoding="utf-8") if resumed else None)
        file.write_text(identifier, encoding="utf-8")

    def start_run(self, identifier: str | None) -> str:
        """Start or continue a run.

        Args:
            identifier: of the run to continue; None = a new one.

        Returns:
            The run's identifier.
        """
        raise NotImplementedError

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of one iteration."""
        raise NotImplementedError

    def finish(self) -> None:
        """End the run."""
        raise NotImplementedError


class WandbWriter(TrackingWriter):
    """Event writer of Weights & Biases; its files are in `OUTPUT_DIR/wandb`.

    Scalars are drawn over `iteration`. Weights & Biases' own settings hold, such as the environment
    variables WANDB_MODE (`offline` needs no network) and WANDB_ENTITY.
    """

    package = "wandb"

    def start_run(self, identifier: str | None) -> str:
        """Start a run, or continue the one of an identifier."""
        self._run = self.service.init(
            project=self.project,
            name=self.name,
            id=identifier,
            resume="allow" if identifier else None,
            dir=str(self.folder),
            config=yaml.safe_load(self.cfg.dump()),
        )
        # Weights & Biases refuses steps that go back, as those of a run that is resumed from an
        # earlier checkpoint do.
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")
        return str(self._run.id)

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of one iteration."""
        self._run.log({**scalars, "iteration": iteration})

    def finish(self) -> None:
        """End the run."""
        self._run.finish()


class MLflowWriter(TrackingWriter):
    """Event writer of MLflow, in `OUTPUT_DIR/mlflow.db` unless MLFLOW_TRACKING_URI is set.

    Characters that MLflow does not allow in names, such as that of `P@0.5`, become `_`.
    """

    package = "mlflow"

    def start_run(self, identifier: str | None) -> str:
        """Start a run, or continue the one of an identifier."""
        if "MLFLOW_TRACKING_URI" not in os.environ:
            self.service.set_tracking_uri(f"sqlite:///{self.folder / 'mlflow.db'}")
        self.service.set_experiment(self.project)
        run = self.service.start_run(run_id=identifier, run_name=self.name)
        if identifier is None:
            parameters = dict(_flattened(self.cfg))
            self.service.log_params(
                {name: str(value)[:MAX_PARAMETER_LENGTH] for name, value in parameters.items()}
            )
        return str(run.info.run_id)

    def log(self, scalars: dict[str, float], iteration: int) -> None:
        """Send the scalars of one iteration."""
        names = {NOT_IN_MLFLOW_NAMES.sub("_", name): value for name, value in scalars.items()}
        self.service.log_metrics(names, step=iteration)

    def finish(self) -> None:
        """End the run."""
        self.service.end_run()


def _flattened(cfg: CfgNode, start: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _flattened(value, f"{start}{name}.")
        else:
            yield f"{start}{name}", value
