"""Detectron2's `DefaultTrainer` for CPU and CUDA, with bit-exact resuming.

A resumed run equals an uninterrupted one: batch t is a function of (seed, t), torch's generator is
seeded from (seed, iteration, rank) before every step, and training stops only between two steps.
"""

from __future__ import annotations

import math
import os
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, SimpleTrainer, hooks
from detectron2.engine.train_loop import HookBase, TrainerBase
from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, get_event_storage
from fvcore.nn.precise_bn import get_bn_modules
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from hipie.checkpoint import Checkpointer
from hipie.checkpoint.atomic_write import write_atomically
from hipie.checkpoint.sharded_checkpointer import ShardedCheckpointer
from hipie.config.unread import warn_about_keys_without_effect
from hipie.data.build import build_test_loader, build_train_loader
from hipie.data.record_errors import record_errors
from hipie.data.training_vocabulary import training_vocabulary
from hipie.engine.accumulation import accumulate_gradients, split_batch, unwrapped
from hipie.engine.curves import CurveWriter
from hipie.engine.ema import ModelEMA, UpdateEMA
from hipie.engine.event_writers import WINDOW_SIZE, LossGroupWriter, ProgressPrinter
from hipie.engine.freezing import (
    check_frozen_parameters,
    freeze_parameters,
    parameter_table,
)
from hipie.engine.hooks import (
    BestCheckpointer,
    CheckpointOnSignal,
    DivergedError,
    LimitedCheckpointer,
    PeriodicWriter,
    StopAfterSkippedSteps,
)
from hipie.engine.loss_history import LossHistory
from hipie.engine.lr_scheduler import build_lr_scheduler
from hipie.engine.mask_labelling import with_mask_source
from hipie.engine.mean_teacher import MeanTeacher
from hipie.engine.optimizer import GradientClipping, build_optimizer, clip_gradients
from hipie.engine.precision import autocast_dtype, build_grad_scaler
from hipie.engine.pretrained_encoders import check_pretrained_encoders, load_text_encoder
from hipie.engine.resumed_optimizer import (
    apply_hyperparameters,
    check_same_parameters,
    hyperparameters,
    parameter_names,
)
from hipie.engine.sharding import (
    allocate_optimizer_state,
    check_sharding,
    fill_missing_gradients,
    full_weights,
    is_sharded,
    shard_model,
)
from hipie.engine.tracking import build_tracking_writers
from hipie.error_report import one_line_message
from hipie.errors import HipieError, InputError, cause_of
from hipie.evaluation import ResultsTable, build_evaluator, write_results
from hipie.evaluation.requests import RequestingLoader
from hipie.evaluation.results_io import require_expected_results
from hipie.logs import get_logger
from hipie.memory_check import checked_memory
from hipie.modeling.precision import BFLOAT16, INT8, resolve_precision
from hipie.vocabularies.json_format import VOCABULARY_FILE, vocabulary_to_json

logger = get_logger(__name__)


class SeededTrainer(SimpleTrainer):
    """Single-step trainer that seeds every step; with mixed precision and gradient accumulation.

    A step whose losses or gradients are not finite in any process is skipped in all of them: the
    weights, the optimizer and the running statistics of batch norms stay as they are.

    Args:
        model: returns a dict of losses in training mode, the same terms in every process.
        data_loader: an iterable of batches, endless.
        optimizer: of the model's parameters.
        seed: base of the seeds; see `step_seed`.
        dtype: format of activations under autocast, on any device; None = no autocast. With float16
            losses are scaled.
        accumulation_steps: micro-batches into which a batch is split.

    Attributes:
        teacher: annotates batches before they are learned, see `MeanTeacher`; None = no teacher.
        last_step: iteration of the last complete step of this run; None before the first one.
        is_updating: whether weights or optimizer are being changed, so that neither can be saved.
        skipped_steps: steps that were skipped since the start of the training, saved and resumed.
        skipped_in_a_row: those since the last step that was taken, saved and resumed.
        loss_history: losses that are not in the event storage yet.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        dtype: torch.dtype | None = None,
        accumulation_steps: int = 1,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.seed = seed
        self.dtype = dtype
        self.accumulation_steps = accumulation_steps
        self.teacher: Callable[[Any], Any] | None = None
        self.last_step: int | None = None
        self.is_updating = False
        self._last_batch: Any = None
        self.skipped_steps = self.skipped_in_a_row = 0
        device = next(model.parameters()).device
        self._device_type = device.type
        self.grad_scaler = build_grad_scaler(dtype, device)
        self._running_statistics = running_statistics(model)
        self.loss_history = LossHistory(WINDOW_SIZE)

    def run_step(self) -> None:
        """Run one optimisation step on the next batch.

        If it fails, the weights and running statistics are those before it, unless `is_updating`.

        Raises:
            InputError: if the data loader of this process has ended.
            BatchError: in all processes, if the loader of one of several has failed.
        """
        start = time.perf_counter()
        batch, error = self._next_batch()
        data_time = time.perf_counter() - start
        statistics_before = [values.clone() for values in self._running_statistics]
        taken = False
        if self.teacher is not None:
            batch = self.teacher(batch)
        try:
            losses = self._losses_and_gradients(batch)
            taken = self._take_step(losses, data_time, error)
        finally:
            if not taken:
                for values, before in zip(self._running_statistics, statistics_before, strict=True):
                    values.copy_(before)
        self.last_step = self.iter

    def _losses_and_gradients(self, batch: Any) -> dict[str, Tensor]:
        """Run the forward and backward pass of a batch, and return its losses."""
        self.optimizer.zero_grad()
        losses = accumulate_gradients(
            self.model,
            split_batch(batch, self.accumulation_steps),
            lambda loss: self.grad_scaler.scale(loss).backward(),
            before_forward=self._forward_context,
        )
        if is_sharded(self.model):
            fill_missing_gradients(self.model)
        self.after_backward()
        return losses

    def state_dict(self) -> dict[str, Any]:
        """States of iteration, hooks, optimizer and scaler, and the numbers of skipped steps."""
        skipped = {"total": self.skipped_steps, "in_a_row": self.skipped_in_a_row}
        return {
            **super().state_dict(),
            "skipped_steps": skipped,
            "grad_scaler": self.grad_scaler.state_dict(),
            "parameter_names": parameter_names(self.optimizer, unwrapped(self.model)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; the state of another trainer may lack some of it.

        Raises:
            InputError: if the optimizer is of another kind or has other groups of parameters.
        """
        names = parameter_names(self.optimizer, unwrapped(self.model))
        check_same_parameters(
            state_dict["optimizer"],
            state_dict.get("parameter_names"),
            self.optimizer.state_dict(),
            names,
        )
        super().load_state_dict(state_dict)
        skipped = state_dict.get("skipped_steps", {})
        self.skipped_steps = skipped.get("total", 0)
        self.skipped_in_a_row = skipped.get("in_a_row", 0)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

    @contextmanager
    def _forward_context(self, micro_batch: int) -> Iterator[None]:
        rank = comm.get_rank() + comm.get_world_size() * micro_batch
        torch.manual_seed(step_seed(self.seed, self.iter, rank))
        with torch.autocast(self._device_type, self.dtype, enabled=self.dtype is not None):
            yield

    def _next_batch(self) -> tuple[Any, Exception | None]:
        """Return the next batch.

        Where others wait for this process, an error of the loader is returned with the batch
        before, so that all processes run this step and end together after it.
        """
        try:
            batch = next(self._data_loader_iter)
        except StopIteration:
            raise InputError(
                f"the training data of process {comm.get_rank()} ended at iteration {self.iter}; "
                "the loader of build_train_loader has to be endless"
            ) from None
        except Exception as error:
            if self._last_batch is None:
                raise
            return self._last_batch, error
        if comm.get_world_size() > 1:
            self._last_batch = batch
        return batch, None

    def _take_step(
        self, losses: dict[str, Tensor], data_time: float, error: Exception | None
    ) -> bool:
        """Clip the gradients and step, or skip the step; record the losses.

        Args:
            losses: of this process.
            data_time: seconds that it waited for its batch.
            error: of its loader.

        Returns:
            Whether the step was taken, the same in every process.

        Raises:
            BatchError: in every process, if the loader of any of them has failed.
        """
        if self.grad_scaler.is_enabled():
            get_event_storage().put_scalar("grad_scale", self.grad_scaler.get_scale())
            self.grad_scaler.unscale_(self.optimizer)
        if isinstance(self.optimizer, GradientClipping):
            norm = self.optimizer.clip_gradients()
        else:
            norm = clip_gradients(self.optimizer, None)
        report = reduce_step(losses, norm, data_time, failed=error is not None)
        if report.failed_ranks:
            raise BatchError(_first_message(error)) from error
        if report.is_finite:
            self.is_updating = True
            self.grad_scaler.step(self.optimizer)
            self.is_updating = False
            self.skipped_in_a_row = 0
        else:
            self.skipped_steps += 1
            self.skipped_in_a_row += 1
            logger.warning(
                "Skipped iteration %d, the %d. in a row: %s",
                self.iter,
                self.skipped_in_a_row,
                report.problem(),
            )
        self.grad_scaler.update()
        if comm.is_main_process():
            storage = get_event_storage()
            storage.put_scalar("data_time", report.data_time)
            storage.put_scalar("skipped_steps", self.skipped_steps, smoothing_hint=False)
            if report.is_finite:
                storage.put_scalar("total_loss", report.total)
                storage.put_scalar("gradient_norm", report.gradient_norm)
                if len(report.names) > 1:
                    self.loss_history.add(self.iter, report.names, report.losses)
        return report.is_finite


@dataclass(frozen=True)
class StepReport:
    """Losses and gradients of a step, the same in every process.

    Attributes:
        names: of the losses.
        losses: [n] on the device, averaged over the processes.
        total: their sum.
        gradient_norm: of the averaged gradients, before clipping.
        non_finite_ranks: processes in which a loss is nan or infinite.
        failed_ranks: processes whose loader has failed.
        data_time: seconds that the slowest process waited for its batch.
    """

    names: tuple[str, ...]
    losses: Tensor
    total: float
    gradient_norm: float
    non_finite_ranks: list[int]
    failed_ranks: list[int]
    data_time: float

    @property
    def is_finite(self) -> bool:
        """Whether all losses and gradients of all processes are finite."""
        return not self.non_finite_ranks and math.isfinite(self.total + self.gradient_norm)

    def problem(self) -> str:
        """Say which losses of which processes are not finite, or that the gradients are not."""
        losses = zip(self.names, self.losses.tolist(), strict=True)
        names = [name for name, value in losses if not math.isfinite(value)]
        if not self.non_finite_ranks and not names:
            return f"the norm of the gradients is {self.gradient_norm}"
        others = f" and {len(names) - 3} more" if len(names) > 3 else ""
        text = f"{', '.join(names[:3])}{others} not finite"
        if comm.get_world_size() == 1:
            return text
        return f"{text} in process {', '.join(str(rank) for rank in self.non_finite_ranks)}"


class BatchError(HipieError):
    """Batch that the loader of a process could not read, raised in all processes together."""


def _first_message(error: Exception | None) -> str:
    """Return the message of the first process with an error; called by all processes."""
    own = None if error is None else one_line_message(error)
    return next(message for message in comm.all_gather(own) if message is not None)


@torch.no_grad()
def reduce_step(
    losses: dict[str, Tensor], norm: Tensor, data_time: float, *, failed: bool = False
) -> StepReport:
    """Average losses over processes, by one reduction; only their sum is copied to the host.

    Every process has to call it, with the same names.

    Args:
        losses: scalars by name.
        norm: scalar, the norm of the gradients.
        data_time: seconds.
        failed: whether the loader of this process has failed.
    """
    rank, world_size = comm.get_rank(), comm.get_world_size()
    values = torch.stack([loss.detach().float() for loss in losses.values()])
    # A number of one process is a vector over processes that is 0 for the others.
    of_process = values.new_zeros(3, world_size)
    of_process[0, rank] = (~torch.isfinite(values).all()).float()
    of_process[1, rank] = data_time
    of_process[2, rank] = float(failed)
    norm = norm.detach().to(values) / world_size
    everything = torch.cat([of_process.flatten(), norm[None], values / world_size])
    if world_size > 1:
        dist.all_reduce(everything)
    values = everything[3 * world_size + 1 :]
    numbers = torch.cat([everything[: 3 * world_size + 1], values.sum()[None]]).tolist()
    return StepReport(
        names=tuple(losses),
        losses=values,
        total=numbers[-1],
        gradient_norm=numbers[3 * world_size],
        non_finite_ranks=[i for i, flag in enumerate(numbers[:world_size]) if flag],
        failed_ranks=[i for i, flag in enumerate(numbers[2 * world_size : -2]) if flag],
        data_time=max(numbers[world_size : 2 * world_size]),
    )


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the running statistics of batch norms that training updates."""
    return [
        buffer
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training
        for buffer in module.buffers(recurse=False)
    ]


def step_seed(seed: int, iteration: int, rank: int) -> int:
    """Return a seed for torch's generator, unique to an iteration and a process of a run.

    Args:
        seed: of the run.
        iteration: number of the step.
        rank: of the process; micro-batches beyond the first count as further processes.
    """
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
        if cfg.MODEL.PRECISION == INT8:
            raise InputError(
                "MODEL.PRECISION is int8, which rounds the weights: set float32, bfloat16 or auto "
                "for a training and its evaluations"
            )
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        freeze_parameters(model, cfg.MODEL.FREEZE)
        if cfg.SOLVER.FSDP.ENABLED:
            check_sharding(cfg)
            shard_model(model, cfg.SOLVER.FSDP.MIN_LAYER_PARAMETERS)
        optimizer = self.build_optimizer(cfg, model)
        self.cfg = cfg
        self._trainer = SeededTrainer(
            wrap_for_processes(model),
            None,
            optimizer,
            seed=cfg.SEED,
            dtype=autocast_dtype(cfg, next(model.parameters()).device),
            accumulation_steps=cfg.SOLVER.ACCUMULATION_STEPS,
        )
        self._trainer.register_hooks([_AfterBackward(self)])
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        parts: dict[str, Any] = {"trainer": weakref.proxy(self)}
        self.ema = ModelEMA(model, cfg.MODEL_EMA.DECAY) if cfg.MODEL_EMA.ENABLED else None
        if self.ema is not None:
            parts["ema"] = self.ema
        if cfg.SEMI_SUPERVISED.ENABLED:
            self._trainer.teacher = MeanTeacher.from_config(cfg, model, self.ema)
        self.checkpointer = self.build_checkpointer(cfg, model, **parts)
        self.checkpointer.exclude = cfg.MODEL.WEIGHTS_EXCLUDE
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())
        if cfg.TEST.PRECISE_BN.ENABLED and not get_bn_modules(model):
            # Detectron2 leaves its hook out where no batch norm is trained.
            warn_about_keys_without_effect(cfg, ["TEST.PRECISE_BN.ENABLED"])

    @classmethod
    def build_checkpointer(
        cls, cfg: CfgNode, model: nn.Module, **checkpointables: Any
    ) -> Checkpointer:
        """Build the checkpointer of `OUTPUT_DIR`, which reads safely and writes atomically."""
        if is_sharded(model):
            return ShardedCheckpointer(model, cfg.OUTPUT_DIR, **checkpointables)
        return Checkpointer(model, cfg.OUTPUT_DIR, **checkpointables)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Build the optimizer of `SOLVER`."""
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
            device = next(model.parameters()).device
            in_bfloat16 = resolve_precision(cfg.MODEL.PRECISION, device) == BFLOAT16
            autocast = torch.autocast(device.type, torch.bfloat16, in_bfloat16)
            with autocast, checked_memory(model), full_weights(model), record_errors(name):
                requesting = RequestingLoader(loader, evaluator)
                evaluated = with_mask_source(cfg, model, name)
                metrics = inference_on_dataset(evaluated, requesting, evaluator)
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
        """Load the last checkpoint or `MODEL.WEIGHTS`, and start the loader at its iteration.

        Raises:
            InputError: if the processes have read different checkpoints.
        """
        if is_sharded(self._trainer.model) and resume and self.checkpointer.has_checkpoint():
            allocate_optimizer_state(self._trainer.optimizer)
        configured = hyperparameters(self._trainer.optimizer)
        super().resume_or_load(resume)
        if self.start_iter:
            changes = apply_hyperparameters(self._trainer.optimizer, configured, self.scheduler)
            if changes:
                logger.warning("The resumed run goes on with %s.", ", ".join(changes))
        model = unwrapped(self._trainer.model)
        report = getattr(self.checkpointer, "report", None)
        if not self.start_iter:
            load_text_encoder(self.cfg, model, report)
            check_frozen_parameters(self.cfg, model, report)
            check_pretrained_encoders(self.cfg, model, report)
        logger.info("Parameters of the model:\n%s", parameter_table(model, report))
        if self.ema is not None and not self.ema.is_loaded:
            self.ema.restart()
            if self.start_iter:
                logger.warning("The checkpoint has no averaged weights: the average starts anew.")
        starts = comm.all_gather(self.start_iter)
        if len(set(starts)) > 1:
            raise InputError(
                f"the processes would resume at different iterations ({min(starts)} and "
                f"{max(starts)}): OUTPUT_DIR {self.cfg.OUTPUT_DIR} has to be a folder that all "
                "machines share"
            )
        self._trainer.reset_data_loader(lambda: self.build_train_loader(self.cfg, self.start_iter))

    def train(self) -> Any:
        """Train up to `max_iter`; after an error a checkpoint is saved before it is raised.

        The checkpoint is of the last complete iteration, so that `--resume` continues with the one
        that failed.

        Returns:
            The results of the last evaluation; None without one.

        Raises:
            ExpectedResultError: if a result is outside of the tolerance of `TEST.EXPECTED_RESULTS`.
        """
        if comm.is_main_process():
            self._write_vocabulary()
        try:
            TrainerBase.train(self, self.start_iter, self.max_iter)
        except Exception as error:
            self._save_after(error)
            raise
        results = getattr(self, "_last_eval_results", None)
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            require_expected_results(self.cfg.TEST.EXPECTED_RESULTS, results or {})
        return results

    def _write_vocabulary(self) -> None:
        """Write the class names of the training sets, which `Segmenter.from_pretrained` reads."""
        file = Path(self.cfg.OUTPUT_DIR, VOCABULARY_FILE)
        vocabulary = training_vocabulary(self.cfg.DATASETS.TRAIN)
        if vocabulary is None:
            file.unlink(missing_ok=True)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        content = vocabulary_to_json(vocabulary)

        def write(name: str) -> None:
            Path(name).write_text(content, encoding="utf-8")

        write_atomically(file, write)

    def _save_after(self, error: Exception) -> None:
        """Save a checkpoint of the last complete iteration, unless there is one already."""
        step, model = self._trainer.last_step, self._trainer.model
        together = isinstance(error, BatchError)
        # All processes write the checkpoint of a sharded model.
        if step is None or self._trainer.is_updating or (is_sharded(model) and not together):
            return
        name = f"model_{step:07d}"
        if isinstance(error, DivergedError) or self._is_final_checkpoint(step):
            return
        self.iter = self._trainer.iter = step
        try:
            self.checkpointer.save(name, iteration=step)
        except Exception as failure:
            logger.error("No checkpoint could be saved after the error: %s", cause_of(failure))
            logger.debug("Traceback of the failed save:", exc_info=failure)
            return
        if together:
            comm.synchronize()
        logger.warning(
            "Training ends after iteration %d: %s in %s is saved; --resume continues from it.",
            step,
            name,
            self.cfg.OUTPUT_DIR,
        )

    def _is_final_checkpoint(self, step: int) -> bool:
        """Whether an iteration is the last one, and the checkpoint after it is written."""
        if step + 1 < self.max_iter or not self.checkpointer.has_checkpoint():
            return False
        return Path(self.checkpointer.get_checkpoint_file()).stem == "model_final"

    def build_hooks(self) -> list[HookBase]:
        """Build the hooks: timing, schedule, checkpoints, evaluation, writers, stops, signals.

        The writers come after the evaluation, the best checkpoint directly after it, and the
        periodic checkpoints before it.
        """
        self._signals = CheckpointOnSignal(self.checkpointer)
        replaced = (hooks.PeriodicCheckpointer, hooks.PeriodicWriter)
        default = [hook for hook in super().build_hooks() if hook is not None]
        default = [
            hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate)
            if isinstance(hook, hooks.EvalHook)
            else hook
            for hook in default
        ]
        if self.ema is not None:
            default.insert(0, UpdateEMA(self.ema, self.cfg.OUTPUT_DIR))
        writers = [w for hook in default if isinstance(hook, replaced[1]) for w in hook._writers]
        default = [hook for hook in default if not isinstance(hook, replaced)]
        test, is_main = self.cfg.TEST, comm.is_main_process()
        evaluation = next(i for i, hook in enumerate(default) if isinstance(hook, hooks.EvalHook))
        if is_main and test.BEST_CHECKPOINT_METRIC:
            best = BestCheckpointer(
                test.EVAL_PERIOD,
                self.checkpointer,
                test.BEST_CHECKPOINT_METRIC,
                test.BEST_CHECKPOINT_MODE,
                self.ema,
            )
            default.insert(evaluation + 1, best)
        # All processes write the checkpoints of a sharded model.
        if is_main or is_sharded(self._trainer.model):
            periodic = LimitedCheckpointer(
                self.checkpointer,
                self.cfg.SOLVER.CHECKPOINT_PERIOD,
                max_to_keep=self.cfg.SOLVER.MAX_CHECKPOINTS,
            )
            default.insert(evaluation, periodic)
        if is_main:
            default.append(
                PeriodicWriter(writers, test.EVAL_PERIOD, self._trainer.loss_history.write)
            )
        return [
            *default,
            StopAfterSkippedSteps(self.checkpointer, self.cfg.SOLVER.MAX_SKIPPED_STEPS),
            self._signals,
        ]

    def _evaluate(self) -> Any:
        """Evaluate the model, with the averaged weights if there are any."""
        self._last_eval_results: OrderedDict[str, Any] = OrderedDict()
        averaged = self.ema.applied() if self.ema is not None else nullcontext()
        # Detectron2 evaluates after the last iteration even if it failed, which `iter` tells.
        failed = self.iter + 1 == self.max_iter
        if failed or self._signals.stops_evaluation:
            return self._last_eval_results
        with self._signals.evaluation(), averaged:
            self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def build_writers(self) -> list[EventWriter]:
        """Build the writers: progress line, metrics.json, those of `TRACKING.WRITERS`, curves."""
        folder = Path(self.cfg.OUTPUT_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        return [
            LossGroupWriter(),
            ProgressPrinter(self.max_iter),
            JSONWriter(str(folder / "metrics.json"), WINDOW_SIZE),
            *build_tracking_writers(self.cfg),
            CurveWriter(folder, self.cfg.TEST.BEST_CHECKPOINT_METRIC),
        ]


class _AfterBackward(HookBase):
    """Hook of the inner trainer that calls the outer trainer's hooks after the backward pass."""

    def __init__(self, outer: Trainer) -> None:
        self._outer = weakref.ref(outer)

    def after_backward(self) -> None:
        outer = self._outer()
        if outer is not None:
            outer.after_backward()


def wrap_for_processes(model: nn.Module) -> nn.Module:
    """Wrap a model in `DistributedDataParallel` for several processes, unless it is sharded.

    Every backward pass reaches all parameters, see `hipie.modeling.meta_arch.base`.
    """
    if comm.get_world_size() == 1 or is_sharded(model):
        return model
    on_gpu = next(model.parameters()).device.type == "cuda"
    return DistributedDataParallel(
        model,
        device_ids=[comm.get_local_rank()] if on_gpu else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
