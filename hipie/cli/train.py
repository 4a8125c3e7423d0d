"""`hipie train` and `train_net.py`: Detectron2's command line, on CPU, GPUs or under torchrun.

hipie train --data shelf=shelf/train.json:shelf/images --val shelf_val=shelf/val.json:shelf/images
hipie train --config-file nano/hipie_nano_picturebook.yaml SOLVER.MAX_ITER 60
hipie train --config-file ... --resume
hipie train --config-file ... --import my_architecture
hipie eval --model hipie-nano-picturebook
hipie eval --config-file ... PICTUREBOOK.SEED 7
hipie train --config-file ... --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:29500
torchrun --nproc-per-node 8 -m hipie.cli.train --config-file ...
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from hipie import model_zoo
from hipie.cli.finetune import (
    HELP,
    add_finetuning_arguments,
    read_finetuning,
    write_finetuning,
)
from hipie.code_permission import add_import_arguments
from hipie.config.device import require_device
from hipie.config.loading import check
from hipie.config.unread import warn_about_unread_keys
from hipie.data.datasets import register_all
from hipie.data.file_check import check_datasets
from hipie.downloads import add_network_arguments
from hipie.engine.failures import PeerError
from hipie.engine.launch import AUTO, launch, runs_on_gpu
from hipie.engine.malloc import keep_freed_memory
from hipie.engine.output_folder import changed_keys, own_imports, require_fresh_folder, saved_value
from hipie.engine.profiling import StepProfiler
from hipie.engine.trainer import Trainer
from hipie.error_report import log_file, log_to, one_line_errors
from hipie.errors import HipieError, InputError, UsageError
from hipie.evaluation.results_io import require_expected_results
from hipie.logs import RepeatedWarningFilter, get_logger
from hipie.modeling.meta_arch.base import meta_architecture
from hipie.projects import project_names

logger = get_logger("hipie")
PROGRAM = "hipie train"
# Loggers of Detectron2 that report progress.
PROGRESS_LOGGERS = ("detectron2.engine.train_loop", "detectron2.evaluation.evaluator")


class ProcessError(HipieError):
    """Process of a training that was killed."""


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
        if args.data or args.val:
            use_finetuning(args)
        cfg = read_config(args)
        prepare_output_folder(args, cfg.OUTPUT_DIR)
        try:
            launch(
                run,
                (args,),
                num_gpus=args.num_gpus,
                cpu_workers=args.cpu_workers,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                device=cfg.MODEL.DEVICE,
                reporting=partial(process_errors, program),
            )
        except mp.ProcessExitedException as error:
            if error.exit_code < 0:
                raise ProcessError(
                    f"process {error.error_index} was ended by {error.signal_name}; the system "
                    "kills processes that exceed the memory"
                ) from error
            sys.exit(error.exit_code)  # that process has printed the message
    return 0


def parse_arguments(arguments: Sequence[str], program: str = PROGRAM) -> argparse.Namespace:
    """Parse Detectron2's arguments, `--model`, `--cpu-workers`, `--profile` and `--import`."""
    parser = default_argument_parser(f"{__doc__}\n{HELP}")
    parser.prog = program
    parser.set_defaults(dist_url=AUTO, program=program)
    parser.add_argument(
        "--model",
        default="",
        metavar="NAME",
        help="configuration and MODEL.WEIGHTS of a model (hipie models list)",
    )
    add_finetuning_arguments(parser)
    add_network_arguments(parser)
    add_import_arguments(parser)
    parser.add_argument(
        "--cpu-workers", type=int, default=1, help="processes on each CPU, joined by gloo"
    )
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help="profile N iterations after the first two; the files are in OUTPUT_DIR/profile",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="module or file with architectures, data sets or evaluators; may be repeated",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="remove the run that is in OUTPUT_DIR and start anew",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="prefix or pattern of tensors that are not taken from MODEL.WEIGHTS; may be repeated",
    )
    args = parser.parse_args(list(arguments))
    if args.model and args.config_file:
        parser.error("--model brings its configuration: leave --config-file or --model out")
    return args


def use_finetuning(args: argparse.Namespace) -> None:
    """Write the configuration of `--data` and `--val`, and put it in place of the arguments."""
    cfg, text = read_finetuning(args)
    prepare_output_folder(args, cfg.OUTPUT_DIR)
    args.config_file = write_finetuning(cfg, text)
    args.model, args.opts, args.exclude = "", [], []
    args.imports = list(cfg.IMPORTS)


def prepare_output_folder(args: argparse.Namespace, folder: str) -> None:
    """Check that a training that starts anew finds no other run in `OUTPUT_DIR`.

    Raises:
        UsageError: for --overwrite with --resume or --eval-only.
        OutputFolderError: if there is one, without --overwrite.
    """
    if args.overwrite and (args.resume or args.eval_only):
        raise UsageError("--overwrite removes a run; --resume and --eval-only need it")
    is_first = args.machine_rank == 0 and int(os.environ.get("RANK", 0)) == 0
    if is_first and not (args.resume or args.eval_only):
        require_fresh_folder(folder, args.overwrite)


@contextmanager
def process_errors(program: str) -> Iterator[None]:
    """End one of several processes with one sentence, see `one_line_errors`.

    The failure of another process has a sentence once on every machine.
    """
    with one_line_errors(program):
        try:
            yield
        except PeerError as error:
            if error.is_quiet:
                logger.debug("Traceback of the error:", exc_info=error)
                sys.exit(1)
            raise


def run(args: argparse.Namespace) -> None:
    """Train, or evaluate with `--eval-only`.

    Raises:
        InputError: if torchrun would restart a training that does not resume.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and not (args.resume or args.eval_only):
        raise InputError(
            f"torchrun restarts this command up to {restarts} times (--max-restarts), each time "
            "from the first iteration; add --resume to continue from the last checkpoint"
        )
    cfg = setup(args)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    check_datasets(cfg, training=not args.eval_only)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = Trainer.build_checkpointer(cfg, model)
        if args.resume and cfg.MODEL_EMA.ENABLED and checkpointer.has_checkpoint():
            # As in the evaluations during the training.
            checkpointer.load(f"{checkpointer.get_checkpoint_file()}?ema=True")
        else:
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        if cfg.MODEL.PRECISION == "int8":
            model.set_precision("int8")
        results = Trainer.test(cfg, model)
        if comm.is_main_process() and cfg.TEST.EXPECTED_RESULTS:
            require_expected_results(cfg.TEST.EXPECTED_RESULTS, results)
        return
    # Evaluators are built first, so that an unreadable test set is an error before training.
    for name in cfg.DATASETS.TEST:
        Trainer.build_test_loader(cfg, name)
        Trainer.build_evaluator(cfg, name)
    trainer = Trainer(cfg)
    if args.profile > 0:
        trainer.register_hooks([StepProfiler(args.profile, cfg.OUTPUT_DIR)])
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def setup(args: argparse.Namespace) -> CfgNode:
    """Build the configuration of a run, and set up its loggers and data sets."""
    cfg = read_config(args)
    if args.eval_only:
        take_trained_weights(cfg, args)
        require_weights(cfg, args)
    cfg.SEED = run_seed(cfg, args.resume)
    if torch.device(cfg.MODEL.DEVICE).type not in ("cpu", "cuda"):
        require_device(cfg.MODEL.DEVICE)
    elif not runs_on_gpu(cfg.MODEL.DEVICE, args.num_gpus, args.cpu_workers):
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    differences = changed_keys(cfg) if args.resume and not args.eval_only else []
    comm.synchronize()  # the file that is compared is written below
    setup_loggers(cfg.OUTPUT_DIR)
    logger.info("%s on %s; the full log is %s", args.config_file, cfg.MODEL.DEVICE, log_file())
    default_setup(cfg, args)
    register_all(cfg)
    warn_about_unread_keys(cfg)
    if differences:
        logger.warning(
            "Keys that differ from those of the interrupted run hold from now on: %s",
            ", ".join(differences),
        )
    return cfg


def take_trained_weights(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Evaluate the weights that the package has of a configuration, not those it starts from.

    They are those with the configuration's name, unless the command line has MODEL.WEIGHTS.
    """
    named = args.model or "MODEL.WEIGHTS" in args.opts
    trained = None if named or args.resume else model_zoo.get_weights(args.config_file)
    if trained is not None:
        cfg.MODEL.WEIGHTS, cfg.MODEL.TEXT_ENCODER_WEIGHTS = str(trained), ""


def require_weights(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Check that an evaluation has weights.

    Raises:
        InputError: if it would be of the random weights that a model is built with.
    """
    resumes = args.resume and os.path.exists(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    architecture = meta_architecture(cfg)
    needs_weights = architecture is None or architecture.requires_checkpoint_of(cfg)
    options = ["MODEL.WEIGHTS", ""] if args.model else args.opts
    if needs_weights and not resumes and not model_zoo.trained_weights(cfg, options):
        raise InputError(
            f"{args.config_file}: there are no weights to evaluate: name them by MODEL.WEIGHTS "
            "FILE, or take those of the run in OUTPUT_DIR by --resume"
        )


def run_seed(cfg: CfgNode, resume: bool) -> int:
    """Return the seed of a run, the same in every process; a negative `SEED` draws one.

    A resumed run has the seed that is in config.yaml of its folder.
    """
    seed = int(cfg.SEED)
    if seed < 0:
        saved = saved_value(cfg, "SEED") if resume else None
        seed = saved if isinstance(saved, int) and saved >= 0 else secrets.randbelow(2**31)
    return int(comm.all_gather(seed)[0])


def setup_loggers(folder: str) -> None:
    """Log everything to log.txt of a folder, and to the screen what this package reports.

    Of Detectron2 only progress is on the screen. Messages of other packages and
    Python's warnings are in log.txt.

    Raises:
        InputError: if the folder cannot be written.
    """
    rank = comm.get_rank()
    try:
        # With the arguments of Detectron2's `default_setup`, which then adds no handlers.
        third_parties = [
            setup_logger(folder, distributed_rank=rank, name="fvcore"),
            setup_logger(folder, distributed_rank=rank),
        ]
        own = [
            setup_logger(folder, distributed_rank=rank, name=name)
            for name in ("hipie", *project_names())
        ]
    except OSError as error:
        raise InputError(
            f"OUTPUT_DIR {folder} cannot be written: {error.strerror or error}"
        ) from error
    for logger in third_parties:
        for handler in filter(is_screen, logger.handlers):
            handler.addFilter(is_progress)
    for handler in own[0].handlers:
        handler.addFilter(RepeatedWarningFilter("hipie.data"))
    for logger in own:
        # Tracebacks are logged at debug level: in log.txt, not on the screen.
        for handler in filter(is_screen, logger.handlers):
            handler.setLevel(logging.INFO)
    log_to(next(handler for handler in own[0].handlers if not is_screen(handler)))
    # PyTorch puts its handlers back when Detectron2 asks it for the compiler.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def read_config(args: argparse.Namespace) -> CfgNode:
    """Build and check the configuration of a command line.

    Raises:
        HipieError: naming the file, key or value that cannot be used.
    """
    options = list(args.opts)
    if args.model:
        model = model_zoo.pretrained(args.model)
        args.config_file = model.config
        options = ["MODEL.WEIGHTS", model.weights, *model.options, *options]
    args.config_file = str(model_zoo.get_config_file(args.config_file))
    own = own_imports(args.config_file, options) if args.resume else []
    cfg = model_zoo.get_config(args.config_file, options, [*args.imports, *own])
    if args.exclude:
        cfg.MODEL.WEIGHTS_EXCLUDE = tuple(args.exclude)
    check(cfg)
    return cfg


def is_screen(handler: logging.Handler) -> bool:
    """Whether a log handler writes to the standard output."""
    return isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout


def is_progress(record: logging.LogRecord) -> bool:
    """Filter of Detectron2's messages on the screen: progress only, no tracebacks."""
    return (
        record.name in PROGRESS_LOGGERS and record.levelno == logging.INFO and not record.exc_info
    )


if __name__ == "__main__":
    sys.exit(main())
