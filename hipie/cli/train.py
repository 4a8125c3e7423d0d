"""`hipie train` and `train_net.py`: Detectron2's command line, on CPU, GPUs or under torchrun.

hipie train --config-file nano/hipie_nano_picturebook.yaml SOLVER.MAX_ITER 60
hipie train --config-file ... --resume
hipie train --config-file ... --import my_architecture
hipie eval --config-file ... PICTUREBOOK.SEED 7
torchrun --nproc-per-node 8 -m hipie.cli.train --config-file ...
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import torch
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hipie import model_zoo
from hipie.config.loading import check
from hipie.data.datasets import register_all
from hipie.engine.launch import launch
from hipie.engine.malloc import keep_freed_memory
from hipie.engine.trainer import Trainer
from hipie.projects import project_names

logger = logging.getLogger("hipie")
PROGRAM = "hipie train"


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Train or evaluate in one process, or in as many as the command line says.

    Args:
        arguments: those after the program's name; None = of this process.
        program: name of the program, for its messages.

    Returns:
        0.

    Raises:
        SystemExit: with a one-line message, if the input is wrong.
    """
    args = parse_arguments(sys.argv[1:] if arguments is None else arguments, program)
    try:
        launch(run_process, (args,), num_gpus=args.num_gpus, cpu_workers=args.cpu_workers)
    except ValueError as error:
        sys.exit(f"{program}: {error}")
    except mp.ProcessExitedException as error:
        sys.exit(error.exit_code)  # that process has printed the message
    return 0


def parse_arguments(arguments: Sequence[str], program: str = PROGRAM) -> argparse.Namespace:
    """Parse Detectron2's arguments, `--cpu-workers` and `--import`."""
    parser = default_argument_parser(__doc__)
    parser.prog = program
    parser.set_defaults(num_gpus=torch.cuda.device_count(), program=program)
    parser.add_argument(
        "--cpu-workers", type=int, default=1, help="processes on the CPU, joined by gloo"
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="module or file with architectures, data sets or evaluators; may be repeated",
    )
    return parser.parse_args(list(arguments))


def run_process(args: argparse.Namespace) -> None:
    """Train or evaluate in this process.

    Raises:
        SystemExit: with a one-line message, if the input is wrong.
    """
    try:
        run(args)
    except (ValueError, KeyError, OSError, NotImplementedError) as error:
        logger.debug("Traceback of the error:", exc_info=True)
        sys.exit(f"{args.program}: {one_line_message(error)}")


def run(args: argparse.Namespace) -> None:
    """Train, or evaluate with `--eval-only`."""
    cfg = setup(args)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = Trainer.build_checkpointer(cfg, model)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        Trainer.test(cfg, model)
        return
    # Evaluators are built first, so that an unreadable test set is an error before training.
    for name in cfg.DATASETS.TEST:
        Trainer.build_test_loader(cfg, name)
        Trainer.build_evaluator(cfg, name)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def setup(args: argparse.Namespace) -> CfgNode:
    """Build the configuration of a run, and set up its loggers and data sets."""
    args.config_file = str(model_zoo.get_config_file(args.config_file))
    cfg = model_zoo.get_config(args.config_file, args.opts, imports=args.imports)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        cfg.MODEL.WEIGHTS = str(model_zoo.get_weights(args.config_file) or "")
    check(cfg)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    default_setup(cfg, args)
    for name in ("hipie", *project_names()):
        logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
        for handler in logger.handlers:
            # Tracebacks are logged at debug level: in log.txt, not on the screen.
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
                handler.setLevel(logging.INFO)
    register_all(cfg)
    return cfg


def one_line_message(error: BaseException) -> str:
    """Return an error's message in one line; of one that a worker process re-raised, the last."""
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "Traceback" in message else " ".join(lines)


if __name__ == "__main__":
    sys.exit(main())
