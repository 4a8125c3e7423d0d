"""Training hooks beside Detectron2's."""

from __future__ import annotations

import logging
import os
import re
import signal
from pathlib import Path
from typing import Any

from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer

logger = logging.getLogger(__name__)


class LimitedCheckpointer(PeriodicCheckpointer):
    """Detectron2's periodic checkpointer, whose limit counts files of earlier runs as well.

    A resumed run keeps the newest `max_to_keep` checkpoints up to the iteration from which it
    continues, including those that `CheckpointOnSignal` saved. Files of later iterations, and all
    files if the run starts anew, are of another run and stay.
    """

    def before_train(self) -> None:
        """Count the checkpoints of the resumed run, and delete those beyond the limit."""
        super().before_train()
        folder = self.checkpointer.save_dir
        if self.max_to_keep is None or not folder or not self.trainer.start_iter:
            return
        pattern = re.compile(rf"{re.escape(self.file_prefix)}_(\d+)\.pth")
        numbered = {
            int(match[1]): str(path)
            for path in Path(folder).iterdir()
            if (match := pattern.fullmatch(path.name)) and int(match[1]) < self.trainer.start_iter
        }
        files = [numbered[iteration] for iteration in sorted(numbered)]
        excess = max(0, len(files) - self.max_to_keep)
        for file in files[:excess]:
            Path(file).unlink(missing_ok=True)
        self.recent_checkpoints = files[excess:]


class CheckpointOnSignal(HookBase):
    """On SIGINT (Ctrl-C) or SIGTERM: finish the iteration, save a checkpoint, and exit.

    A second SIGINT exits at once. Processes that are forked from this one (data loaders,
    evaluators) inherit the signal handlers: they ignore SIGINT, and SIGTERM ends them.

    Args:
        checkpointer: saves the checkpoint; None only where training never runs.
    """

    def __init__(self, checkpointer: Checkpointer | None) -> None:
        self._checkpointer = checkpointer
        self._received: int | None = None
        self._previous_handlers: dict[int, Any] = {}
        self._process = 0

    def before_train(self) -> None:
        """Install the signal handlers, if this is the main thread."""
        self._process = os.getpid()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous_handlers[number] = signal.signal(number, self._on_signal)
            except ValueError:  # only the main thread may install handlers
                return

    def after_step(self) -> None:
        """Save a checkpoint and exit if any process received a signal during the iteration.

        Raises:
            SystemExit: with status 128 + the signal's number.
        """
        received = max(comm.all_gather(self._received or 0))
        if not received:
            return
        if comm.is_main_process() and self._checkpointer is not None:
            iteration = self.trainer.iter
            self._checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            logger.warning(
                "%s after iteration %d: a checkpoint is saved; --resume continues from it.",
                signal.Signals(received).name,
                iteration,
            )
        raise SystemExit(128 + received)

    def after_train(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()

    def _on_signal(self, number: int, _frame: Any) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = number
        logger.warning("Stopping after this iteration; a second Ctrl-C stops at once.")
