"""Checkpointer of a model whose parameters are sharded over processes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch.distributed as dist
from detectron2.utils import comm

from hipie.checkpoint.base import external_weight_prefixes
from hipie.checkpoint.checkpointer import Checkpointer
from hipie.checkpoint.load import LoadReport
from hipie.checkpoint.sharded import (
    SUFFIX,
    distribute_like,
    is_sharded_checkpoint,
    load_sharded,
    write_sharded,
)
from hipie.logs import get_logger

logger = get_logger(__name__)


class ShardedCheckpointer(Checkpointer):
    """Checkpointer that writes folders `NAME.dcp`, in which every process writes its shares.

    All processes call `save` and `load`. A resumed run reads its shares only, with any number of
    processes; the optimizer's state has to exist before. Files of weights, and checkpoints of runs
    without sharding, are read by every process, which keeps its shares.
    """

    suffix = SUFFIX

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and the state of the named objects; see `Checkpointer.load`.

        Raises:
            CheckpointError: likewise.
        """
        keys = list(self.checkpointables if checkpointables is None else checkpointables)
        if not path or not keys or not is_sharded_checkpoint(path):
            return super().load(path, checkpointables)
        templates = {key: self.checkpointables[key].state_dict() for key in keys}
        content = load_sharded(path, {"model": self.model.state_dict(), **templates})
        loaded = content.pop("model")
        external = external_weight_prefixes(self.model)
        missing = [name for name in self.model.state_dict() if name not in loaded]
        self.report = LoadReport(
            missing=tuple(name for name in missing if not name.startswith(external)),
            loaded=len(loaded),
        )
        level = logging.INFO if self.report.complete else logging.WARNING
        logger.log(level, "Weights of %s: %s", path, self.report)
        for key in keys:
            if key in content:
                super()._load_part(key, content.pop(key), path)
        return content

    def save(self, name: str, **extra: Any) -> None:
        """Write `NAME.dcp`; a resumed run starts there. All processes call it.

        Raises:
            CheckpointError: in all processes, if it cannot be written; the previous one is kept.
        """
        if not self.save_dir:
            return
        self.save_untagged(name, **extra)
        if comm.is_main_process():
            self.tag_last_checkpoint(f"{name}{SUFFIX}")
        dist.barrier()

    def save_untagged(self, name: str, **extra: Any) -> None:
        """Write a checkpoint like `save`, but leave the one from which a resumed run starts.

        Raises:
            CheckpointError: likewise.
        """
        if not self.save_dir:
            return
        path = Path(self.save_dir, f"{name}{SUFFIX}")
        logger.info("Saving a sharded checkpoint to %s", path)
        write_sharded(path, self._content(extra))

    def _load_part(self, key: str, state: Any, location: str) -> None:
        shares = distribute_like(state, self.checkpointables[key].state_dict())
        super()._load_part(key, shares, location)
