"""Detectron2's checkpointer with safe reading and atomic writing."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from hipie.checkpoint.atomic_write import write_atomically
from hipie.checkpoint.base import external_weight_prefixes
from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.load import LoadReport, load_state
from hipie.checkpoint.read import read_state, split_options
from hipie.errors import cause_of
from hipie.logs import get_logger

logger = get_logger(__name__)


class Checkpointer(DetectionCheckpointer):
    """Checkpointer for `.pkl`, `.pth` and `.safetensors`: files, `detectron2://` and `https://`.

    No pickled code runs. Checkpoints are written atomically, and `last_checkpoint` names one only
    when it is complete. Weights that an installed package provides are not written (see
    `hipie.checkpoint.base`).

    Args:
        model: loaded and saved; `DistributedDataParallel` is unwrapped.
        save_dir: output folder of `save`; "" writes nothing.
        checkpointables: further objects with a state dict, such as `trainer`.

    Attributes:
        suffix: end of the names of the checkpoints that `save` writes.
        report: result of the last `load`, or None.
        exclude: prefixes or patterns of names that are not loaded where weights start a training
            (`checkpointables` is empty); a resumed run loads everything.
    """

    suffix: ClassVar[str] = ".pth"

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.report: LoadReport | None = None
        self.exclude: Sequence[str] = ()

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and the state of the named (by default: all) other objects.

        Args:
            path: a file or address; "" loads nothing. With `?matching_heuristics=True` at its end
                names are matched by their suffixes, as Detectron2 does; files of Detectron2's model
                zoo contain that option themselves. `?ema=True` loads the averaged weights.
            checkpointables: names given to the constructor; None = all.

        Returns:
            The other content of the file.

        Raises:
            CheckpointError: if the file cannot be read, is of another model, has a tensor of
                another shape that is not excluded, or a state that one of the other objects
                refuses; the model and the objects are as they were.
        """
        if not path:
            logger.info("MODEL.WEIGHTS is empty: the model keeps its initial weights")
            return {}
        location, options = split_options(path)
        content = read_state(path)
        state, author = content.pop("model"), content.get("__author__")
        in_part = bool(content.get("matching_heuristics", options.matching_heuristics))
        if in_part:
            state = self._aligned(state, author)
        keys = self.checkpointables if checkpointables is None else checkpointables
        states = {key: content.pop(key) for key in keys if key in content}
        before = {key: copy.deepcopy(self.checkpointables[key].state_dict()) for key in states}
        try:
            for key, part in states.items():
                self._load_part(key, part, location)
            self.report = load_state(
                self.model,
                state,
                location,
                in_part=in_part,
                exclude=() if keys else self.exclude,
                same_shapes=True,
            )
        except CheckpointError:
            for key, part in before.items():
                self.checkpointables[key].load_state_dict(part)
            raise
        level = logging.INFO if self.report.complete else logging.WARNING
        logger.log(level, "Weights of %s: %s", location, self.report)
        return content

    def _load_part(self, key: str, state: Any, location: str) -> None:
        """Load the state of an object beside the model; its own errors become `CheckpointError`."""
        try:
            self.checkpointables[key].load_state_dict(state)
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{location}: the state of the {key} does not fit this run ({cause_of(error)})"
            ) from error

    def save(self, name: str, **extra: Any) -> None:
        """Write the model, the other objects and `extra` to `name`.pth; a resumed run starts there.

        Raises:
            CheckpointError: if it cannot be written; the previous checkpoint is kept.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        self.save_untagged(name, **extra)
        self.tag_last_checkpoint(f"{name}{self.suffix}")

    def save_untagged(self, name: str, **extra: Any) -> None:
        """Write a checkpoint like `save`, but leave the one from which a resumed run starts.

        Raises:
            CheckpointError: if it cannot be written; a previous file of this name is kept.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir, f"{name}{self.suffix}")
        logger.info("Saving a checkpoint to %s", path)
        content = self._content(extra)
        write_atomically(path, lambda temporary: torch.save(content, temporary))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the checkpoint from which a resumed run starts."""
        file = Path(self.save_dir, "last_checkpoint")
        write_atomically(file, lambda name: _write_text(name, last_filename_basename))

    def _content(self, extra: dict[str, Any]) -> dict[str, Any]:
        """States of the model, without external weights, and of the other objects, and `extra`."""
        external = external_weight_prefixes(self.model)
        weights = self.model.state_dict()
        for key in [key for key in weights if key.startswith(external)]:
            del weights[key]
        parts = {key: part.state_dict() for key, part in self.checkpointables.items()}
        return {"model": weights, **parts, **extra}

    def _aligned(self, state: dict[str, Tensor], author: str | None) -> dict[str, Tensor]:
        """Rename the tensors of a backbone's file by Detectron2's heuristics."""
        model_state = self.model.state_dict()
        aligned: dict[str, Tensor] = align_and_update_state_dicts(
            model_state, state, c2_conversion=author == "Caffe2"
        )
        return aligned


def _write_text(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
