"""Detectron2's default trainer, made to run on CPU too, in bfloat16, and to resume to the bit.

What makes a resumed run equal an uninterrupted one: batch t is a function of (seed, t), torch's
generator is seeded from (seed, iteration, rank) before every step, and a stop is taken only
between two steps.
"""

from __future__ import annotations

import logging
import os
import signal
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import DefaultTrainer, SimpleTrainer, hooks
from detectron2.engine.train_loop import HookBase, TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hipie.engine.event_writers import WINDOW, ProgressPrinter

logger = logging.getLogger(__name__)


class SeededStep(SimpleTrainer):
    """One optimisation step: seeded, optionally under bfloat16 autocast, on any device."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        bfloat16: bool,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.seed = seed
        self.bfloat16 = bfloat16
        self._device_type = next(model.parameters()).device.type

    def run_step(self) -> None:
        """Draw a batch, and take one step down its losses."""
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        torch.manual_seed(step_seed(self.seed, self.iter, comm.get_rank()))
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self.bfloat16):
            losses = self.model(batch)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()


def step_seed(seed: int, iteration: int, rank: int) -> int:
    """A seed for torch's generator that no other (iteration, rank) of the run has."""
    return (max(seed, 0) * 1_000_003 + iteration) * 4096 + rank


class StopBetweenSteps(HookBase):
    """On Ctrl-C or a termination signal: finish the step, save a checkpoint, and end.

    A second Ctrl-C ends at once. Processes that this one forks (loaders, evaluators) inherit the
    signal handlers: in them, Ctrl-C is left to this process, and a termination signal ends them.
    """

    def __init__(self, checkpointer: Any) -> None:
        self._checkpointer = checkpointer
        self._asked: int | None = None
        self._previous: dict[int, Any] = {}
        self._process = 0

    def before_train(self) -> None:
        """Listen for the two signals, where this is the main thread."""
        self._process = os.getpid()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: leave the signals alone
                return

    def after_step(self) -> None:
        """Save and leave if a signal came during the step."""
        asked = max(comm.all_gather(self._asked or 0))
        if not asked:
            return
        name = signal.Signals(asked).name
        if comm.is_main_process():
            self._checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
            logger.warning(
                "%s after iteration %d: a checkpoint is saved; --resume goes on from it.",
                name,
                self.trainer.iter,
            )
        raise SystemExit(128 + asked)

    def after_train(self) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _ask(self, number: int, _frame: Any) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self._asked is not None:
            raise KeyboardInterrupt
        self._asked = number
        logger.warning("Stopping after this step; once more to stop at once.")


class Trainer(DefaultTrainer):
    """`DefaultTrainer` for CPU and CUDA, with `build_*` class methods that a program overrides.

    `build_train_loader(cfg, start_iteration)` takes the iteration to begin with, so that a resumed
    run sees the batches that it has not seen yet.
    """

    def __init__(self, cfg: Any) -> None:
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.cfg = cfg
        self._trainer = SeededStep(
            wrap_for_processes(model),
            None,
            optimizer,
            seed=cfg.SEED,
            bfloat16=cfg.SOLVER.AMP.ENABLED,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = self.build_checkpointer(cfg, model, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_checkpointer(cls, cfg: Any, model: nn.Module, **kept: Any) -> Any:
        """What reads and writes the checkpoints; a program overrides it with `Checkpointer`."""
        raise NotImplementedError

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint or `MODEL.WEIGHTS`, and begin the data where it left off."""
        super().resume_or_load(resume)
        self._trainer.reset_data_loader(lambda: self.build_train_loader(self.cfg, self.start_iter))

    def build_hooks(self) -> list[HookBase]:
        """Timing, schedule, checkpoints, evaluation, writers, and a clean stop."""
        kept = [
            hook
            for hook in super().build_hooks()
            if hook is not None and not isinstance(hook, hooks.PeriodicCheckpointer)
        ]
        if comm.is_main_process():
            periodic = hooks.PeriodicCheckpointer(
                self.checkpointer,
                self.cfg.SOLVER.CHECKPOINT_PERIOD,
                max_to_keep=self.cfg.SOLVER.MAX_CHECKPOINTS,
            )
            before_evaluation = next(
                i for i, hook in enumerate(kept) if isinstance(hook, hooks.EvalHook)
            )
            kept.insert(before_evaluation, periodic)
        return [*kept, StopBetweenSteps(self.checkpointer)]

    def build_writers(self) -> list[EventWriter]:
        """A line on the screen; every term in metrics.json and for TensorBoard."""
        folder = Path(self.cfg.OUTPUT_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        return [
            ProgressPrinter(self.max_iter),
            JSONWriter(str(folder / "metrics.json"), WINDOW),
            TensorboardXWriter(str(folder), WINDOW),
        ]


def wrap_for_processes(model: nn.Module) -> nn.Module:
    """The model itself in one process; in several, its gradients averaged after every step.

    A batch holds one task, and a task leaves some heads unused.
    """
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).device.type == "cuda"
    return DistributedDataParallel(
        model,
        device_ids=[comm.get_local_rank()] if on_gpu else None,
        broadcast_buffers=False,
        find_unused_parameters=True,
    )
