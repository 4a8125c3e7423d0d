"""Command-line arguments that several commands share, and the model that they describe."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hipie import vocabularies
from hipie.code_permission import add_import_arguments
from hipie.downloads import add_network_arguments
from hipie.errors import UsageError

if TYPE_CHECKING:
    from hipie.predictor import Segmenter

MAX_THREADS = 1024
DEFAULT_CONFIG = "nano/hipie_nano_photos.yaml"


def argument_text(argument: str) -> str:
    """Return an argument as text: as UTF-8 where the locale's encoding could not decode it.

    Raises:
        UsageError: with the argument, if it is not UTF-8 either.
    """
    if not any("\ud800" <= character <= "\udfff" for character in argument):
        return argument
    try:
        return argument.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        shown = argument.encode("utf-8", "replace").decode()
        raise UsageError(
            f'"{shown}" is not valid text; use a locale with UTF-8, such as LC_ALL=C.UTF-8'
        ) from error


def parse_names(text: str) -> list[tuple[str, ...]]:
    """Parse class names of an argument; see `hipie.vocabularies.parse_names`.

    >>> parse_names("car; dog, puppy")
    [('car',), ('dog', 'puppy')]
    """
    return vocabularies.parse_names(argument_text(text))


def parse_parts(text: str) -> dict[str, list[str]]:
    """Parse part names of an argument by whole; see `hipie.vocabularies.parse_parts`.

    Raises:
        UsageError: for an entry without a colon, or with several.
    """
    try:
        return vocabularies.parse_parts(argument_text(text))
    except vocabularies.VocabularyError as error:
        raise UsageError(str(error)) from error


def add_class_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--things`, `--stuff` and `--parts`."""
    parser.add_argument("--things", default="", metavar="NAMES", help='"car; dog, puppy"')
    parser.add_argument("--stuff", default="", metavar="NAMES", help='"grass; sky"')
    parser.add_argument("--parts", default="", metavar="NAMES", help='"car: wheel, window"')


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add arguments of the model, its device and downloads, and, last, `--opts`."""
    parser.add_argument(
        "--model",
        default=None,
        metavar="NAME",
        help="model with its weights: a name of hipie models list, a folder, or a repository of "
        "the Hugging Face hub",
    )
    parser.add_argument(
        "--config-file",
        default=None,
        metavar="FILE_OR_NAME",
        help="configuration: a file, or a name such as nano/hipie_nano_picturebook.yaml",
    )
    parser.add_argument(
        "--weights", default=None, metavar="FILE", help="a file, or the OUTPUT_DIR of a training"
    )
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--precision",
        default=None,
        choices=("float32", "bfloat16", "int8", "auto"),
        help="auto is bfloat16 where the processor or GPU computes in it; int8 needs torchao "
        "(default: float32)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the model at the first image, for many images",
    )
    parser.add_argument(
        "--threads",
        type=_number_of_threads,
        default=None,
        metavar="N",
        help="threads of PyTorch on the CPU (default: one a core, or OMP_NUM_THREADS)",
    )
    add_network_arguments(parser)
    add_import_arguments(parser)
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="keys of the configuration and their values, at the end of the command line",
    )


def _number_of_threads(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= number <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"{text} is not a number of threads from 1")
    return number


def names_training(args: argparse.Namespace) -> bool:
    """Whether `--weights` is the folder of a training, which has the configuration and names."""
    folder = Path(args.weights or "").expanduser()
    return bool(args.weights) and folder.is_dir() and folder.suffix != ".dcp"


def require_no_other_model(args: argparse.Namespace) -> None:
    """Check that `--model` comes without the arguments that it replaces.

    Raises:
        UsageError: naming the argument.
    """
    for argument in ("config_file", "weights"):
        if args.model and getattr(args, argument, None):
            flag = f"--{argument.replace('_', '-')}"
            raise UsageError(
                f"--model {args.model} has a {argument.replace('_file', 'uration')} "
                f"of its own: leave {flag} or --model out"
            )


def build_segmenter(args: argparse.Namespace, task: str = "") -> Segmenter:
    """Build the model of the arguments of `add_model_arguments`.

    Without `--model` and `--config-file` it is a model with packaged weights that has the task, if
    there is one. Configuration and device that were chosen are put into the arguments, for
    `make_settings`.

    Args:
        args: the parsed arguments.
        task: an entry of `SegmentationModel.tasks`.

    Raises:
        UsageError: if `--model` is given with what it brings.
        ValueError: for an unknown model, configuration, key, value or device, or weights that do
            not fit.
    """
    from hipie import model_zoo
    from hipie.engine.malloc import keep_freed_memory
    from hipie.predictor import Segmenter

    if getattr(args, "threads", None):
        import torch

        torch.set_num_threads(args.threads)
    if args.model:
        require_no_other_model(args)
    precision = getattr(args, "precision", None)
    compiled = getattr(args, "compile", False)
    options = [*(["MODEL.PRECISION", precision] if precision else []), *args.opts]
    is_training = names_training(args)
    if is_training and args.config_file:
        raise UsageError(
            f"--weights {args.weights} is a folder with a configuration of its own: leave "
            "--config-file out, or name a file"
        )
    if args.model or is_training:
        segmenter = Segmenter.from_pretrained(
            args.model or args.weights, args.device, options, compile=compiled
        )
        args.device = str(segmenter.device)
    else:
        config_file = args.config_file
        if not config_file:
            suitable = model_zoo.configs_for_task(task, trained=True) if task else []
            config_file = suitable[0] if suitable else DEFAULT_CONFIG
        segmenter = Segmenter.from_config(
            config_file, args.weights, args.device, options, compile=compiled
        )
        args.config_file, args.device = config_file, str(segmenter.device)
    if precision:  # what auto stands for here
        args.precision = segmenter.model.precision
    if segmenter.device.type == "cpu":
        keep_freed_memory()
    return segmenter
