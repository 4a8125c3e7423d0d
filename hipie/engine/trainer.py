"""Detectron2's `DefaultTrainer` for CPU and CUDA, in bfloat16, with bit-exact resuming.

A resumed run equals an uninterrupted one: batch t is a function of (seed, t), torch's generator is
seeded from (seed, iteration, rank) before every step, and training stops only between two steps.
"""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, SimpleTrainer, hooks
from detectron2.engine.train_loop import HookBase, TrainerBase
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hipie.checkpoint import Checkpointer
from hipie.data.build import build_test_loader, build_train_loader
from hipie.engine.event_writers import WINDOW_SIZE, ProgressPrinter
from hipie.engine.hooks import (
    BestCheckpointer,
    CheckpointOnSignal,
    LimitedCheckpointer,
    PeriodicWriter,
)
from hipie.engine.lr_scheduler import build_lr_scheduler
from hipie.engine.optimizer import build_optimizer
from hipie.evaluation import ResultsTable, build_evaluator, write_results
from hipie.memory_check import checked_memory

logger = logging.getLogger(__name__)


class SeededTrainer(SimpleTrainer):
    """Single-step trainer that seeds every step, with optional bfloat16 autocast, on any device.

    Args:
        model: returns a dict of losses in training mode.
        data_loader: an iterable of batches.
        optimizer: of the model's parameters.
        seed: base of the seeds; see `step_seed`.
        bfloat16: run the forward pass under bfloat16 autocast.
    """

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
        """Run one optimisation step on the next batch."""
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
    """Return a seed for torch's generator that is unique to an iteration and process of a run."""
    return (max(seed, 0) * 1_000_003 + iteration) * 4096 + rank


class Trainer(DefaultTrainer):
    """`DefaultTrainer` with this package's loaders, evaluators, optimizer and checkpointer.

    As with Detectron2's, a program overrides the `build_*` class methods. `build_train_loader(cfg,
    start_iteration)` takes the iteration to start with, so that a resumed run continues with the
    batches that were not used yet.

    Args:
        cfg: a frozen configuration.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.cfg = cfg
        self._trainer = SeededTrainer(
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
    def build_checkpointer(
        cls, cfg: CfgNode, model: nn.Module, **checkpointables: Any
    ) -> Checkpointer:
        """Build the checkpointer of `OUTPUT_DIR`, which reads safely and writes atomically."""
        return Checkpointer(model, cfg.OUTPUT_DIR, **checkpointables)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build AdamW with the learning rates of `SOLVER`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Build one of Detectron2's learning-rate schedules, or the polynomial one."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0) -> Any:
        """Build the loader of `DATASETS.TRAIN`, from batch `start_iteration` on."""
        return build_train_loader(cfg, start_iteration)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Build the loader of one test set."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Build the evaluator of one test set; predictions go to `OUTPUT_DIR/inference`."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return build_evaluator(cfg, dataset_name, folder)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> OrderedDict[str, Any]:
        """Evaluate a model on every data set of `DATASETS.TEST`.

        The results are written to results.json, and a table of them with their protocols to
        table.json, in `OUTPUT_DIR`.

        Args:
            cfg: the configuration.
            model: in any mode; it is evaluated in evaluation mode.
            evaluators: one evaluator per data set; None = `build_evaluator`.

        Returns:
            {data set: {task: {metric: number}}}, whatever the number of data sets. Empty on all but
            the first process.
        """
        results: OrderedDict[str, Any] = OrderedDict()
        table = ResultsTable()
        for index, name in enumerate(cfg.DATASETS.TEST):
            loader = cls.build_test_loader(cfg, name)
            evaluator = evaluators[index] if evaluators else cls.build_evaluator(cfg, name)
            device_type = next(model.parameters()).device.type
            autocast = torch.autocast(device_type, torch.bfloat16, cfg.TEST.BFLOAT16)
            with autocast, checked_memory(model):
                metrics = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                print_csv_format(metrics)
                results[name] = metrics
                table.add(name, metrics, evaluator)
        if comm.is_main_process():
            path = write_results(results, cfg.OUTPUT_DIR)
            logger.info("Results are in %s and %s:", path, table.write(cfg.OUTPUT_DIR))
            logger.info("\n%s", table.text())
        return results

    def resume_or_load(self, resume: bool = True) -> None:
        """Load the last checkpoint or `MODEL.WEIGHTS`, and start the loader at its iteration."""
        super().resume_or_load(resume)
        self._trainer.reset_data_loader(lambda: self.build_train_loader(self.cfg, self.start_iter))

    def build_hooks(self) -> list[HookBase]:
        """Build the hooks: timing, schedule, checkpoints, evaluation, writers, signals.

        The writers come after the evaluation, the best checkpoint directly after it, and the
        periodic checkpoints before it.
        """
        replaced = (hooks.PeriodicCheckpointer, hooks.PeriodicWriter)
        default = [hook for hook in super().build_hooks() if hook is not None]
        writers = [w for hook in default if isinstance(hook, replaced[1]) for w in hook._writers]
        default = [hook for hook in default if not isinstance(hook, replaced)]
        if comm.is_main_process():
            test = self.cfg.TEST
            evaluation = next(
                i for i, hook in enumerate(default) if isinstance(hook, hooks.EvalHook)
            )
            if test.BEST_CHECKPOINT_METRIC:
                best = BestCheckpointer(
                    test.EVAL_PERIOD,
                    self.checkpointer,
                    test.BEST_CHECKPOINT_METRIC,
                    test.BEST_CHECKPOINT_MODE,
                )
                default.insert(evaluation + 1, best)
            periodic = LimitedCheckpointer(
                self.checkpointer,
                self.cfg.SOLVER.CHECKPOINT_PERIOD,
                max_to_keep=self.cfg.SOLVER.MAX_CHECKPOINTS,
            )
            default.insert(evaluation, periodic)
            default.append(PeriodicWriter(writers, test.EVAL_PERIOD))
        return [*default, CheckpointOnSignal(self.checkpointer)]

    def build_writers(self) -> list[EventWriter]:
        """Build the writers: a progress line, metrics.json and TensorBoard."""
        folder = Path(self.cfg.OUTPUT_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        return [
            ProgressPrinter(self.max_iter),
            JSONWriter(str(folder / "metrics.json"), WINDOW_SIZE),
            TensorboardXWriter(str(folder), WINDOW_SIZE),
        ]


def wrap_for_processes(model: nn.Module) -> nn.Module:
    """Wrap a model in `DistributedDataParallel` where there are several processes.

    Every backward pass reaches all parameters, see `hipie.modeling.meta_arch.base`.
    """
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).device.type == "cuda"
    return DistributedDataParallel(
        model,
        device_ids=[comm.get_local_rank()] if on_gpu else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
