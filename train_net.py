#!/usr/bin/env python
"""Train or evaluate any model of `hipie`: Detectron2's command line, on CPU, GPUs or torchrun.

python train_net.py --config-file configs/nano/hipie_nano_picturebook.yaml SOLVER.MAX_ITER 60
python train_net.py --config-file ... --resume
python train_net.py --config-file ... --eval-only PICTUREBOOK.SEED 7
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import OrderedDict
from typing import Any

import torch
import torch.multiprocessing as mp
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from hipie import add_hipie_config, model_zoo
from hipie.checkpoint import Checkpointer
from hipie.config.loading import check, merge
from hipie.data.build import build_test_loader, build_train_loader
from hipie.data.datasets import register_all
from hipie.engine.launch import launch
from hipie.engine.lr_scheduler import build_lr_scheduler
from hipie.engine.malloc import keep_freed_memory
from hipie.engine.optimizer import build_optimizer
from hipie.engine.trainer import Trainer
from hipie.evaluation import ResultsTable, build_evaluator, write_results
from hipie.projects import project_names

logger = logging.getLogger("hipie")


class HipieTrainer(Trainer):
    """The trainer with this package's loaders, evaluators, optimiser and checkpoints."""

    @classmethod
    def build_checkpointer(cls, cfg: CfgNode, model: nn.Module, **kept: Any) -> Checkpointer:
        """Checkpoints in the output folder, written whole or not at all."""
        return Checkpointer(model, cfg.OUTPUT_DIR, **kept)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW with the recipe's groups."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Detectron2's schedules, and the polynomial one."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, start_iteration: int = 0) -> Any:
        """Batches from `start_iteration` on."""
        return build_train_loader(cfg, start_iteration)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """One data set, image by image."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_test(cls, cfg: CfgNode, dataset_name: str) -> tuple[Any, Any]:
        """One data set's loader and its evaluator."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return cls.build_test_loader(cfg, dataset_name), build_evaluator(cfg, dataset_name, folder)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> OrderedDict:
        """Evaluate on every data set of `DATASETS.TEST`.

        Results also go to results.json; a table of them, with their protocols, to table.json.
        """
        results: OrderedDict[str, Any] = OrderedDict()
        table = ResultsTable()
        for name in cfg.DATASETS.TEST:
            loader, evaluator = cls.build_test(cfg, name)
            with torch.autocast(
                next(model.parameters()).device.type, torch.bfloat16, cfg.TEST.BFLOAT16
            ):
                found = inference_on_dataset(model, loader, evaluator)
            if comm.is_main_process():
                print_csv_format(found)
                add_results(results, name, found)
                table.add(name, found, evaluator)
        if comm.is_main_process():
            path = write_results(results, cfg.OUTPUT_DIR)
            logger.info("Results are in %s and %s:", path, table.write(cfg.OUTPUT_DIR))
            logger.info("\n%s", table.text())
        return results


def add_results(results: dict[str, Any], dataset: str, found: dict[str, Any]) -> None:
    """Add one data set's results; a task that an earlier one had comes under "dataset/task"."""
    for task, numbers in found.items():
        results[f"{dataset}/{task}" if task in results else task] = numbers


def setup(args: argparse.Namespace) -> CfgNode:
    """The configuration of a run, its logger and its data sets."""
    cfg = get_cfg()
    add_hipie_config(cfg)
    args.config_file = str(model_zoo.get_config_file(args.config_file))
    merge(cfg, args.config_file, args.opts)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        cfg.MODEL.WEIGHTS = str(model_zoo.get_weights(args.config_file) or "")
    check(cfg)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    default_setup(cfg, args)
    for name in ("hipie", *project_names()):
        own = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
        for handler in own.handlers:
            if getattr(handler, "stream", None) is sys.stdout:
                handler.setLevel(logging.INFO)  # log.txt alone has where an error came from
    register_all(cfg)
    return cfg


def main(args: argparse.Namespace) -> None:
    """Train, or evaluate with `--eval-only`; a bad input ends it with one sentence.

    Raises:
        SystemExit: with the expression, for what is wrong with the input.
    """
    try:
        run(args)
    except (ValueError, KeyError, OSError) as error:
        logger.debug("It ended here:", exc_info=True)
        sys.exit(f"train_net.py: {one_expression(error)}")


def run(args: argparse.Namespace) -> None:
    """Train, or evaluate with `--eval-only`."""
    cfg = setup(args)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if args.eval_only:
        model = HipieTrainer.build_model(cfg)
        checkpointer = HipieTrainer.build_checkpointer(cfg, model)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        HipieTrainer.test(cfg, model)
        return
    for name in cfg.DATASETS.TEST:
        HipieTrainer.build_test(cfg, name)  # one that cannot be read is told now, not after days
    trainer = HipieTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def one_expression(error: BaseException) -> str:
    """What an error says, in one line; of one that a worker process passed on, the last line."""
    said = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "Traceback" in said else " ".join(lines)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Detectron2's arguments, and the number of processes on the CPU."""
    parser = default_argument_parser(__doc__)
    parser.set_defaults(num_gpus=torch.cuda.device_count())
    parser.add_argument(
        "--cpu-workers", type=int, default=1, help="processes on the CPU, joined by gloo"
    )
    return parser.parse_args(arguments)


def start(arguments: list[str]) -> None:
    """The command line: one process, or as many as it asks for."""
    args = parse_arguments(arguments)
    try:
        launch(main, (args,), num_gpus=args.num_gpus, cpu_workers=args.cpu_workers)
    except ValueError as error:
        sys.exit(f"train_net.py: {error}")
    except mp.ProcessExitedException as error:
        sys.exit(error.exit_code)  # the process has said why


if __name__ == "__main__":
    start(sys.argv[1:])
