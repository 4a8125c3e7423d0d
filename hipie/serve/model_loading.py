"""A model that is loaded in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from hipie.error_report import as_hipie_errors
from hipie.errors import HipieError
from hipie.serve.errors import CLOSE, RequestError

Model = TypeVar("Model")


class LoadedModel(Generic[Model]):
    """Loads a model in a thread; until then requests for it are refused.

    Args:
        name: of the model, for messages.
        load: builds the model.
        on_failure: called in the thread after `load` has failed.

    Attributes:
        error: of a load that has failed.
    """

    def __init__(
        self, name: str, load: Callable[[], Model], on_failure: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self.error: HipieError | None = None
        self._load = load
        self._on_failure = on_failure
        self._model: Model | None = None
        self._thread = threading.Thread(target=self._run, name="hipie-load", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the model is loaded or the load has failed."""
        self._thread.join(timeout)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is ready."""
        return self._model is not None

    @property
    def is_loading(self) -> bool:
        """Whether the thread that loads the model runs."""
        return self._thread.is_alive()

    def get(self) -> Model:
        """Return the model.

        Raises:
            RequestError: 503, while it is loaded and after that has failed.
        """
        if self._model is not None:
            return self._model
        if self.error is not None:
            raise RequestError(
                503, f"the model {self.name} could not be loaded: {self.error}", CLOSE
            )
        raise RequestError(503, f"the model {self.name} is loading", {**CLOSE, "Retry-After": "5"})

    def _run(self) -> None:
        try:
            with as_hipie_errors():
                self._model = self._load()
        except HipieError as error:
            self.error = error
            self._on_failure()
