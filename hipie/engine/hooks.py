"""Training hooks beside Detectron2's."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import hooks
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import Checkpointer

from hipie.checkpoint import Checkpointer as SafeCheckpointer
from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.torch_file import check_torch_zip
from hipie.data.worker_signals import forks_outlive_group_signals
from hipie.engine.ema import ModelEMA
from hipie.engine.signals import SignalHandlers
from hipie.errors import HipieError
from hipie.logs import get_logger

BEST_CHECKPOINT = "model_best"
"""Name of the checkpoint with the best metric, without its suffix."""
BEST_AVERAGED_WEIGHTS = "model_best_ema.pth"
"""Name of the file of the averaged weights with the best metric."""
WRITER_PERIOD = 20
"""Iterations between two reports, as in Detectron2."""

logger = get_logger(__name__)


def remove_checkpoint(path: str) -> None:
    """Remove a checkpoint, a file or a folder, in the first process only."""
    if not comm.is_main_process():
        return
    if Path(path).is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        Path(path).unlink(missing_ok=True)


class _Remover:
    """What Detectron2's periodic checkpointer needs of a path manager."""

    exists = staticmethod(os.path.exists)
    rm = staticmethod(remove_checkpoint)


class LimitedCheckpointer(PeriodicCheckpointer):
    """Detectron2's periodic checkpointer, whose limit counts files of earlier runs as well.

    A resumed run keeps the newest `max_to_keep` checkpoints up to the iteration from which it
    continues, including those that `CheckpointOnSignal` saved. Files of later iterations, and all
    files if the run starts anew, are of another run and stay.
    """

    def before_train(self) -> None:
        """Count the checkpoints of the resumed run, and delete those beyond the limit."""
        super().before_train()
        self.path_manager = _Remover
        folder = self.checkpointer.save_dir
        if self.max_to_keep is None or not folder or not self.trainer.start_iter:
            return
        pattern = re.compile(rf"{re.escape(self.file_prefix)}_(\d+)\.(?:pth|dcp)")
        numbered = {
            int(match[1]): str(path)
            for path in Path(folder).iterdir()
            if (match := pattern.fullmatch(path.name)) and int(match[1]) < self.trainer.start_iter
        }
        files = [numbered[iteration] for iteration in sorted(numbered)]
        excess = max(0, len(files) - self.max_to_keep)
        for file in files[:excess]:
            remove_checkpoint(file)
        self.recent_checkpoints = files[excess:]


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's checkpointer of the best metric, which remembers the metric in its checkpoint.

    `OUTPUT_DIR/model_best.pth` is a complete checkpoint with two more entries, `best_metric` (its
    name) and `best_value`. A resumed run reads them and replaces the file only by a better one; a
    run that starts anew, or that compares another metric, replaces it at its first evaluation.
    `last_checkpoint` never names it, and the limit of checkpoints does not count it. With averaged
    weights, which evaluations are of then, `OUTPUT_DIR/model_best_ema.pth` has those of the same
    iteration alone, ready to be loaded.

    Args:
        eval_period: iterations between two evaluations; 0 = after the last iteration only.
        checkpointer: saves the checkpoint.
        metric: a name in the event storage, `data set/task/metric`.
        mode: "max" or "min", which values are better.
        ema: the averaged weights, if evaluations are of them.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: SafeCheckpointer,
        metric: str,
        mode: str = "max",
        ema: ModelEMA | None = None,
    ) -> None:
        super().__init__(eval_period, self, metric, mode, BEST_CHECKPOINT)
        self._checkpoints = checkpointer
        self._ema = ema

    def before_train(self) -> None:
        """Continue with the best value of the resumed run."""
        file = Path(self._checkpoints.save_dir, f"{BEST_CHECKPOINT}.pth")
        if not self.trainer.start_iter or not file.is_file():
            return
        try:
            with open(file, "rb") as stream:
                check_torch_zip(stream, file.stat().st_size)
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        if content.get("best_metric") == self._val_metric:
            self.best_metric, self.best_iter = content["best_value"], content["iteration"]

    def save(self, name: str, **extra: Any) -> None:
        """Save the checkpoint of the latest evaluation; Detectron2's hook calls this.

        The checkpoint is the last file: a run that is killed before has the previous value in it,
        and a resumed run writes both again.
        """
        value, _ = self.trainer.storage.latest()[self._val_metric]
        if self._ema is not None:
            self._ema.save(Path(self._checkpoints.save_dir, BEST_AVERAGED_WEIGHTS))
        self._checkpoints.save_untagged(
            name, **extra, best_metric=self._val_metric, best_value=float(value)
        )

    def _best_checking(self) -> None:
        results = self.trainer.storage.latest()
        if self._val_metric in results:
            super()._best_checking()
            return
        names = [name for name in results if "/" in name]
        similar = difflib.get_close_matches(self._val_metric, names, 3, 0.5)
        logger.warning(
            "TEST.BEST_CHECKPOINT_METRIC %s is not among the results%s; no best checkpoint is "
            "saved.",
            self._val_metric,
            f", similar names are {', '.join(similar)}" if similar else "",
        )


class PeriodicWriter(hooks.PeriodicWriter):
    """Detectron2's periodic writer, which also writes directly after every evaluation.

    Args:
        writers: called in order.
        eval_period: iterations between two evaluations; 0 = after the last iteration only.
        before_writing: called before the writers; puts what they write into the event storage.
    """

    def __init__(
        self,
        writers: Sequence[EventWriter],
        eval_period: int,
        before_writing: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(list(writers), WRITER_PERIOD)
        self._eval_period = eval_period
        self._before_writing = before_writing

    def after_step(self) -> None:
        """Write every 20 iterations, after an evaluation and at the last iteration."""
        steps = self.trainer.iter + 1
        is_due = steps % self._period == 0 or steps == self.trainer.max_iter
        if is_due or (self._eval_period > 0 and steps % self._eval_period == 0):
            if self._before_writing is not None:
                self._before_writing()
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        """Write what is left, and close the writers."""
        if self._before_writing is not None:
            self._before_writing()
        super().after_train()


# Fewer steps may be skipped at the end of any run, while the factor of float16 adapts.
MIN_SKIPPED_TO_FAIL = 3


class DivergedError(HipieError):
    """Losses or gradients that are not finite in too many steps in a row."""


class StopAfterSkippedSteps(HookBase):
    """Save a checkpoint and stop when too many steps in a row were skipped.

    Steps are skipped for losses or gradients that are not finite; see `SeededTrainer`. The weights
    of the checkpoint are those of the last step that was taken. A run fails as well if it is too
    short for that and the second half of it, or more, was skipped.

    Args:
        checkpointer: saves the checkpoint; None only where training never runs.
        max_skipped: steps in a row that may be skipped; 0 stops at the first one.
    """

    def __init__(self, checkpointer: Checkpointer | None, max_skipped: int) -> None:
        self._checkpointer = checkpointer
        self._max_skipped = max_skipped

    def after_step(self) -> None:
        """Stop if the limit is exceeded.

        Raises:
            DivergedError: naming the iterations and the checkpoint.
        """
        skipped = self.trainer._trainer.skipped_in_a_row
        iteration = self.trainer.iter
        if skipped <= self._max_skipped:
            is_last = iteration + 1 == self.trainer.max_iter
            half = (self.trainer.max_iter - self.trainer.start_iter) / 2
            if is_last and skipped >= max(half, MIN_SKIPPED_TO_FAIL):
                raise DivergedError(
                    f"the losses or gradients of the last {skipped} of {self.trainer.max_iter} "
                    "steps are not finite; model_final in OUTPUT_DIR has the weights before these "
                    "steps; lower SOLVER.BASE_LR or inspect the data"
                )
            return
        name = f"model_{iteration:07d}"
        if self._checkpointer is not None:
            self._checkpointer.save(name, iteration=iteration)
        raise DivergedError(
            f"training stopped at iteration {iteration}: the losses or gradients of {skipped} "
            f"steps in a row are not finite (SOLVER.MAX_SKIPPED_STEPS is {self._max_skipped}); "
            f"{name} in OUTPUT_DIR has the weights before these steps; lower SOLVER.BASE_LR or "
            "inspect the data, and continue with --resume"
        )


class EvaluationStopped(SystemExit):
    """Evaluation that a signal ended; the training then saves a checkpoint and exits."""


class CheckpointOnSignal(HookBase):
    """On SIGINT (Ctrl-C), SIGTERM or SIGHUP: finish the iteration, save a checkpoint, and exit.

    A second SIGINT exits at once. A SIGHUP that is ignored when the training starts, as under
    nohup, stays ignored. Processes that are forked from this one, workers of loaders and of
    evaluators, ignore these signals, and end on SIGTERM of this process; so a signal to the whole
    process group does the same as one to this process.

    Args:
        checkpointer: saves the checkpoint; None only where training never runs.
    """

    def __init__(self, checkpointer: Checkpointer | None) -> None:
        self._checkpointer = checkpointer
        self._received: int | None = None
        self._is_evaluating = False
        self._handlers = SignalHandlers(self._on_signal)
        self._contexts = ExitStack()
        self._process = 0

    def before_train(self) -> None:
        """Install the signal handlers, if this is the main thread."""
        self._process = os.getpid()
        self._handlers.install()
        self._contexts.enter_context(forks_outlive_group_signals())

    def after_step(self) -> None:
        """Save a checkpoint and exit if any process received a signal during the iteration.

        Raises:
            SystemExit: with status 128 + the signal's number.
        """
        received = max(comm.all_gather(self._received or 0))
        if not received:
            return
        if self._checkpointer is not None:
            iteration = self.trainer.iter
            self._checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            logger.warning(
                "%s after iteration %d: a checkpoint is saved; --resume continues from it.",
                signal.Signals(received).name,
                iteration,
            )
        raise SystemExit(128 + received)

    def after_train(self) -> None:
        """Restore the previous signal handlers.

        Raises:
            SystemExit: if a signal ended the evaluation after the last iteration, whose checkpoint
                is saved before.
        """
        self._handlers.restore()
        self._contexts.close()
        if self._received is not None and sys.exc_info()[1] is None:
            raise SystemExit(128 + self._received)

    @property
    def stops_evaluation(self) -> bool:
        """Whether a signal has come, so that an evaluation is left out."""
        return self._received is not None and comm.get_world_size() == 1

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Context of an evaluation during the training, which a signal ends at once.

        Among several processes the evaluation is finished, as they wait for each other.
        """
        self._is_evaluating = comm.get_world_size() == 1
        try:
            yield
        except EvaluationStopped:
            logger.warning("The evaluation is left out.")
        finally:
            self._is_evaluating = False

    def _on_signal(self, number: int, _frame: Any) -> None:
        if os.getpid() != self._process:
            # A process that was started in another way than by a fork of Python.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self._received is not None:
            # Launchers repeat a signal that the processes have already got themselves.
            if number == self._received == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._received = number
        logger.warning("Stopping after this iteration; a second Ctrl-C stops at once.")
        if self._is_evaluating:
            raise EvaluationStopped(128 + number)
