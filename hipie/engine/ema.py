"""Exponential moving average (EMA) of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hipie.checkpoint import save_weights
from hipie.engine.sharding import is_sharded
from hipie.logs import get_logger

logger = get_logger(__name__)

AVERAGED_WEIGHTS = "model_final_ema.pth"
"""Name of the file of the averaged weights after the training."""


class ModelEMA:
    """Exponential moving average of a model's trainable parameters.

    After every step the average is `decay * average + (1 - decay) * parameter`. It starts at the
    model's weights. Frozen parameters and buffers are the model's own.

    Args:
        model: not wrapped for several processes.
        decay: in 0..1; the average is over about 1 / (1 - decay) steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model = model
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._averages = [p.detach().clone() for p in self._parameters]
        self._update = get_ema_multi_avg_fn(decay)
        self.is_loaded = False

    def restart(self) -> None:
        """Set the average to the model's weights."""
        self._copy(self._parameters, self._averages)

    def update(self) -> None:
        """Add the model's weights to the average."""
        self._update(self._averages, [p.detach() for p in self._parameters], None)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Context in which the model has the averaged weights."""
        trained = [p.detach().clone() for p in self._parameters]
        self._copy(self._averages, self._parameters)
        try:
            yield
        finally:
            self._copy(trained, self._parameters)

    def save(self, path: Path) -> bool:
        """Write the model with the averaged weights to a file of weights.

        Returns:
            Whether it was written; the weights of a sharded model are in its checkpoints only.
        """
        if is_sharded(self._model):
            return False
        with self.applied():
            save_weights(self._model, path, half=False)
        return True

    def state_dict(self) -> dict[str, Tensor]:
        """Averages by the names of the parameters; a shared one has all of its names."""
        average_of = {id(p): a for p, a in zip(self._parameters, self._averages, strict=True)}
        return {
            name: average_of[id(parameter)]
            for name, parameter in self._model.named_parameters(remove_duplicate=False)
            if id(parameter) in average_of
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned; parameters that it lacks have their own weights."""
        self.restart()
        averages = self.state_dict()
        for name in averages.keys() & state.keys():
            averages[name].copy_(state[name])
        self.is_loaded = True

    @staticmethod
    @torch.no_grad()
    def _copy(source: list[Any], target: list[Any]) -> None:
        for value, place in zip(source, target, strict=True):
            place.copy_(value)


class UpdateEMA(HookBase):
    """Hook that updates the average after every step, and writes it to a file at the end.

    Args:
        ema: the average.
        folder: of the file, `OUTPUT_DIR`.
    """

    def __init__(self, ema: ModelEMA, folder: str) -> None:
        self._ema = ema
        self._folder = folder

    def after_step(self) -> None:
        """Update the average."""
        self._ema.update()

    def after_train(self) -> None:
        """Write the averaged weights, if the training is complete; see `ModelEMA.save`."""
        path = Path(self._folder, AVERAGED_WEIGHTS)
        is_complete = self.trainer.iter >= self.trainer.max_iter
        if comm.is_main_process() and is_complete and self._ema.save(path):
            logger.info("The averaged weights are in %s", path)
