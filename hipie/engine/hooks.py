"""Training hooks beside Detectron2's."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer

logger = logging.getLogger(__name__)


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
