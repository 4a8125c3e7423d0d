"""Models of the page, loaded by name in the background."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie import model_zoo
from hipie.error_report import as_hipie_errors
from hipie.errors import HipieError, InputError, MissingFileError
from hipie.model_zoo.hub import is_repository_name

if TYPE_CHECKING:
    from hipie.predictor import Segmenter

# Models that are in the memory at a time.
MAX_LOADED = 3
# Seconds between two reports of a load.
REPORT_INTERVAL = 0.2


@dataclass(frozen=True)
class ModelSpec:
    """A model that the page offers.

    Attributes:
        name: what it is chosen by.
        source: a model of the table, a folder, or a repository of the hub; with `is_config` a name
            or file of a configuration.
        is_config: whether `source` is a configuration.
        weights: a file for a configuration; "" for those that it has.
        options: KEY VALUE KEY VALUE ... for the configuration.
        precision: see `Segmenter.from_config`.
        compile: likewise.
    """

    name: str
    source: str
    is_config: bool = False
    weights: str = ""
    options: tuple[str, ...] = ()
    precision: str | None = None
    compile: bool = False

    def check(self) -> None:
        """Check what can be checked without loading the model.

        Raises:
            HipieError: for a model, configuration, key or file that does not exist.
        """
        if self.weights:
            is_named = self.weights.partition("?")[0] in model_zoo.MODELS
            is_file = "://" not in self.weights and not is_named
            if is_file and not Path(self.weights).expanduser().exists():
                raise MissingFileError(f"{self.weights}: there is no such file")
        config = self.source
        if not self.is_config:
            is_local = self.source in model_zoo.MODELS or Path(self.source).expanduser().is_dir()
            if not is_local and is_repository_name(self.source.partition("@")[0]):
                return  # it is downloaded when it is loaded
            config = model_zoo.model_config(self.source)
        model_zoo.get_config(config, self.options)

    def load(self, device: str | None) -> Segmenter:
        """Build the model."""
        from hipie.predictor import Segmenter

        how: dict[str, Any] = {"precision": self.precision, "compile": self.compile}
        if self.is_config:
            weights = self.weights or None
            return Segmenter.from_config(self.source, weights, device, self.options, **how)
        return Segmenter.from_pretrained(self.source, device, self.options, **how)


def named_model(source: str, options: Sequence[str] = ()) -> ModelSpec:
    """Return the model of a name of the table, a folder, a repository or a configuration.

    Args:
        source: a configuration if it ends with ".yaml" or is the name of one; else the others.
        options: see `ModelSpec`.
    """
    is_config = not (source in model_zoo.MODELS or Path(source).expanduser().is_dir()) and (
        source.endswith((".yaml", ".yml")) or f"{source}.yaml" in model_zoo.names()
    )
    return ModelSpec(source, source, is_config, options=tuple(options))


def known_models() -> list[ModelSpec]:
    """Models of the table that segment and whose weights are on this machine."""
    from hipie.registration import register_all

    register_all()  # projects register their models
    return [
        ModelSpec(name, name)
        for name, model in model_zoo.MODELS.items()
        if model.config and model_zoo.weights_on_disk(model) is not None
    ]


class ModelPool:
    """Loads models, each once, in threads, and keeps those that were used last.

    Args:
        models: with different names; the first one is the default.
        device: see `Segmenter.from_config`.
    """

    def __init__(self, models: Sequence[ModelSpec], device: str | None = None) -> None:
        self.specs = {model.name: model for model in models}
        self._device = device
        self._loads: OrderedDict[str, Future[Segmenter]] = OrderedDict()
        self._started: dict[str, float] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """Names of all models."""
        return list(self.specs)

    def start(self, name: str) -> Future[Segmenter]:
        """Begin to load a model, or return the load that has begun.

        A load that failed is begun again.

        Raises:
            InputError: for a name that is unknown.
        """
        if name not in self.specs:
            raise InputError(f'there is no model "{name}"; choose one of {", ".join(self.names)}')
        with self._lock:
            load = self._loads.get(name)
            if load is not None and (not load.done() or load.exception() is None):
                self._loads.move_to_end(name)
                return load
            load = self._loads[name] = Future()
            self._started[name] = time.monotonic()
            while len(self._loads) > MAX_LOADED:
                self._loads.popitem(last=False)
        threading.Thread(
            target=self._load, args=(self.specs[name], load), name=f"load-{name}", daemon=True
        ).start()
        return load

    def get(self, name: str, report: Callable[[str], None] = lambda text: None) -> Segmenter:
        """Return a model, once it is loaded.

        Args:
            name: of the model.
            report: called with the state while the model loads; it may raise to end the wait, not
                the load.

        Raises:
            HipieError: if it cannot be loaded.
        """
        load = self.start(name)
        while not load.done():
            report(f"Loading {name}")
            wait([load], timeout=REPORT_INTERVAL)
        return load.result()

    def status(self, name: str) -> tuple[str, bool]:
        """Describe the state of a model, and say whether it will not change any more."""
        with self._lock:
            load = self._loads.get(name)
        if load is None:
            return f"{name} is not loaded", True
        if not load.done():
            return f"Loading {name}: {time.monotonic() - self._started[name]:.0f} s", False
        error = load.exception()
        return (f"{name} is ready" if error is None else f"{name}: {error}"), True

    def is_loaded(self, name: str) -> bool:
        """Whether a model is ready."""
        with self._lock:
            load = self._loads.get(name)
        return load is not None and load.done() and load.exception() is None

    def _load(self, spec: ModelSpec, load: Future[Segmenter]) -> None:
        try:
            with as_hipie_errors():
                load.set_result(spec.load(self._device))
        except HipieError as error:
            load.set_exception(error)
