"""`hipie train` and `train_net.py`: Detectron2's command line, on CPU, GPUs or under torchrun.

hipie train --config-file nano/hipie_nano_picturebook.yaml SOLVER.MAX_ITER 60
hipie train --config-file ... --resume
hipie train --config-file ... --import my_architecture
hipie eval --config-file ... PICTUREBOOK.SEED 7
hipie train --config-file ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:29500
torchrun --nproc-per-node 8 -m hipie.cli.train --config-file ...
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hipie import model_zoo
from hipie.config.loading import check
from hipie.data.datasets import register_all
from hipie.engine.launch import AUTO, launch, runs_on_gpu
from hipie.engine.malloc import keep_freed_memory
from hipie.engine.trainer import Trainer
from hipie.errors import HipieError, InputError
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
        SystemExit: with a one-line message, after an error; see `one_line_errors`.
    """
    args = parse_arguments(sys.argv[1:] if arguments is None else arguments, program)
    with one_line_errors(program):
        try:
            launch(
                run_process,
                (args,),
                num_gpus=args.num_gpus,
                cpu_workers=args.cpu_workers,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                device=read_config(args).MODEL.DEVICE,
            )
        except mp.ProcessExitedException as error:
            sys.exit(error.exit_code)  # that process has printed the message
        except mp.ProcessRaisedException as error:
            raise InputError(one_line_message(error)) from error
    return 0


def parse_arguments(arguments: Sequence[str], program: str = PROGRAM) -> argparse.Namespace:
    """Parse Detectron2's arguments, `--cpu-workers` and `--import`."""
    parser = default_argument_parser(__doc__)
    parser.prog = program
    parser.set_defaults(dist_url=AUTO, program=program)
    parser.add_argument(
        "--cpu-workers", type=int, default=1, help="processes on each CPU, joined by gloo"
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
        SystemExit: with a one-line message, after an error; see `one_line_errors`.
    """
    with one_line_errors(args.program):
        run(args)


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn exceptions into an exit with status 1 and one line; tracebacks go to log.txt only.

    Args:
        program: name of the program, for the line.

    Raises:
        SystemExit: with the message of an error about the input (`HipieError`, ValueError,
            KeyError, OSError, NotImplementedError); or, for any other exception, with its type and
            the name of the log file.
    """
    try:
        yield
    except (HipieError, ValueError, KeyError, OSError, NotImplementedError) as error:
        logger.debug("Traceback of the error:", exc_info=True)
        sys.exit(f"{program}: {one_line_message(error)}")
    except Exception as error:  # noqa: BLE001 - every bug is reported in one line
        kind = type(error).__name__
        message = one_line_message(error)
        summary = kind if message == kind else f"{kind}: {message}"
        sys.exit(
            f"{program}: this is a bug of the program ({summary}); please report it with the "
            f"traceback in {write_traceback(error)}"
        )


def write_traceback(error: BaseException) -> str:
    """Write an error's traceback to the log file of this process.

    Returns:
        The file: log.txt of `OUTPUT_DIR` (log.txt.rank1 and so on in other processes), or a file in
        the folder for temporary files if the run has no log file yet.
    """
    text = "".join(traceback.format_exception(error))
    for handler in logger.handlers:
        name = str(getattr(getattr(handler, "stream", None), "name", ""))
        if os.path.basename(name).startswith("log.txt"):
            logger.debug("Traceback of the error:\n%s", text)
            return name
    with tempfile.NamedTemporaryFile(
        "w", prefix="hipie-", suffix="-log.txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    return file.name


def run(args: argparse.Namespace) -> None:
    """Train, or evaluate with `--eval-only`."""
    cfg = setup(args)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = Trainer.build_checkpointer(cfg, model)
        if args.resume and cfg.MODEL_EMA.ENABLED and checkpointer.has_checkpoint():
            # As in the evaluations during the training.
            checkpointer.load(f"{checkpointer.get_checkpoint_file()}?ema=True")
        else:
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
    cfg = read_config(args)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        cfg.MODEL.WEIGHTS = str(model_zoo.get_weights(args.config_file) or "")
    if not runs_on_gpu(cfg.MODEL.DEVICE, args.num_gpus, args.cpu_workers):
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    try:
        default_setup(cfg, args)
    except OSError as error:
        raise InputError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} cannot be written: {error.strerror or error}"
        ) from error
    for name in ("fvcore", "detectron2"):
        for handler in logging.getLogger(name).handlers:
            if is_screen(handler):
                handler.addFilter(has_no_traceback)
    for name in ("hipie", *project_names()):
        logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
        for handler in logger.handlers:
            # Tracebacks are logged at debug level: in log.txt, not on the screen.
            if is_screen(handler):
                handler.setLevel(logging.INFO)
    register_all(cfg)
    return cfg


def read_config(args: argparse.Namespace) -> CfgNode:
    """Build and check the configuration of a command line.

    Raises:
        HipieError: naming the file, key or value that cannot be used.
    """
    args.config_file = str(model_zoo.get_config_file(args.config_file))
    cfg = model_zoo.get_config(args.config_file, args.opts, imports=args.imports)
    check(cfg)
    return cfg


def is_screen(handler: logging.Handler) -> bool:
    """Whether a log handler writes to the standard output."""
    return isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout


def has_no_traceback(record: logging.LogRecord) -> bool:
    """Filter of log messages: Detectron2 logs the traceback of an error during training."""
    return not record.exc_info


def one_line_message(error: BaseException) -> str:
    """Return an error's message in one line; of one that a worker process re-raised, the last."""
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if "Traceback" in message else " ".join(lines)


if __name__ == "__main__":
    sys.exit(main())
