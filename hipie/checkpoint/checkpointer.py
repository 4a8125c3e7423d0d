"""Detectron2's checkpointer, reading safely and writing whole."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hipie.checkpoint.files import read_state, write_atomically
from hipie.checkpoint.loading import LoadReport, load_state

logger = logging.getLogger(__name__)


class Checkpointer(DetectionCheckpointer):
    """Loads `detectron2://`, `https://` and local `.pkl`, `.pth`, `.safetensors` files.

    No pickled code runs. A checkpoint is written beside its place and moved there when it is
    complete; `last_checkpoint` changes only after that.

    Args:
        model: what is loaded and saved; a wrapper for several processes is looked through.
        save_dir: where `save` writes.
        checkpointables: further objects with a state, such as `trainer`.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any) -> None:
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.report: LoadReport | None = None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and the state of the named (by default: all) other objects.

        Args:
            path: a file or address; "" loads nothing.
            checkpointables: names given to the constructor.

        Returns:
            What the file holds besides.

        Raises:
            CheckpointError: if the file cannot be read, or is of another model.
        """
        if not path:
            logger.info("No weights are given: the model starts as it was built")
            return {}
        local = self.path_manager.get_local_path(path)
        content = read_state(local)
        self.report = load_state(_bare(self.model), content.pop("model"), path)
        logger.info("Weights of %s: %s", path, self.report)
        wanted = self.checkpointables if checkpointables is None else checkpointables
        for key in wanted:
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
        content = {"model": _bare(self.model).state_dict()}
        content |= {key: one.state_dict() for key, one in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        write_atomically(path, lambda temporary: torch.save({**content, **kept}, temporary))
        self.tag_last_checkpoint(path.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Note which checkpoint a resumed run starts from."""
        note = os.path.join(self.save_dir, "last_checkpoint")

        def write(temporary: str) -> None:
            Path(temporary).write_text(last_filename_basename)

        write_atomically(note, write)


def _bare(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model
