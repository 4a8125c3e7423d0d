"""Detectron2's checkpointer, reading safely and writing whole."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from hipie.checkpoint.atomic_write import write_atomically
from hipie.checkpoint.base import external_weight_prefixes
from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.load import load_state
from hipie.checkpoint.read import read_state
from hipie.checkpoint.report import LoadReport

logger = logging.getLogger(__name__)


class Checkpointer(DetectionCheckpointer):
    """Loads `.pkl`, `.pth` and `.safetensors`: files, `detectron2://...` and `https://...`.

    No pickled code runs. A checkpoint is written beside its place and moved there when it is
    complete; only then does `last_checkpoint` name it. What an installed package carries is not
    written (see `hipie.checkpoint.base`).

    Args:
        model: what is loaded and saved; a wrapper for several processes is looked through.
        save_dir: where `save` writes; "" writes nothing.
        checkpointables: further objects with a state, such as `trainer`.

    Attributes:
        report: what the last `load` found, or None.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.report: LoadReport | None = None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and the state of the named (by default: all) other objects.

        Args:
            path: a file or address; "" loads nothing. `?matching_heuristics=True` at its end
                finds the names that differ only in their beginning, as Detectron2 does; files of
                Detectron2's model zoo ask for that themselves.
            checkpointables: names given to the constructor.

        Returns:
            What the file holds besides.

        Raises:
            CheckpointError: if the file cannot be read, or is of another model.
        """
        if not path:
            logger.info("No weights are given: the model starts as it was built")
            return {}
        place, in_part = _options(str(path))
        content = read_state(place)
        state, author = content.pop("model"), content.get("__author__")
        in_part = bool(content.get("matching_heuristics", in_part))
        if in_part:
            state = self._aligned(state, author)
        self.report = load_state(self.model, state, place, in_part=in_part)
        said = logger.info if self.report.complete else logger.warning
        said("Weights of %s: %s", place, self.report)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in content:
                self.checkpointables[key].load_state_dict(content.pop(key))
        return content

    def save(self, name: str, **kept: Any) -> None:
        """Write the model, the other objects and `kept` to `name`.pth in the output folder.

        Raises:
            CheckpointError: if it cannot be written; the previous checkpoint is kept.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        elsewhere = external_weight_prefixes(self.model)
        weights = self.model.state_dict()
        for key in [key for key in weights if key.startswith(elsewhere)]:
            del weights[key]
        content = {"model": weights}
        content |= {key: one.state_dict() for key, one in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        logger.info("Saving a checkpoint to %s", path)
        write_atomically(path, lambda temporary: torch.save({**content, **kept}, temporary))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which checkpoint a resumed run starts from."""
        note = Path(self.save_dir, "last_checkpoint")
        write_atomically(note, lambda name: _write_text(name, last_filename_basename))

    def _aligned(self, state: dict[str, Tensor], author: str | None) -> dict[str, Tensor]:
        """Names of a backbone's file as this model calls them, by Detectron2's heuristics."""
        own = self.model.state_dict()
        return align_and_update_state_dicts(own, state, c2_conversion=author == "Caffe2")


def _write_text(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")


def _options(path: str) -> tuple[str, bool]:
    """A path without its query, and whether the query asks for name matching."""
    if Path(path).is_file():
        return path, False
    parsed = urlparse(path)
    query = parse_qs(parsed.query)
    asked = query.pop("matching_heuristics", ["False"]) == ["True"]
    if query:
        raise CheckpointError(f'{path}: the option "{next(iter(query))}" is not known')
    return parsed._replace(query="").geturl(), asked
