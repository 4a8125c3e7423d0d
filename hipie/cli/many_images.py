"""Arguments of commands that read many images, and the run that they start."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from hipie.cli.arguments import argument_text
from hipie.cli.cluster_arguments import add_cluster_arguments, require_no_cluster_arguments
from hipie.cli.files import print_summary, require_folder_name
from hipie.errors import UsageError

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import nn

    from hipie.batch_inference.formats import ResultFormat
    from hipie.batch_inference.inputs import Input
    from hipie.batch_inference.recorder import BatchSegment
    from hipie.batch_inference.workers import WorkerPool
    from hipie.predictor import Segmenter
    from hipie.segmentation import Segmentation
    from hipie.vocabularies.vocabulary import Vocabulary

INPUT_HELP = (
    "image and video files, folders, patterns, @FILE with one of these a line, COCO files (.json)"
)


@dataclass(frozen=True)
class RunModel:
    """A model that is called without a `Segmenter`.

    Attributes:
        model: with its weights.
        cfg: reads `INPUT.MAX_PIXELS`.
    """

    model: nn.Module
    cfg: CfgNode


if TYPE_CHECKING:
    Call = Callable[[Any], Segmentation] | BatchSegment
    BuildCall = Callable[[], tuple[Segmenter | RunModel, Call]]


def add_run_arguments(parser: argparse.ArgumentParser, *, batch: bool = False) -> None:
    """Add the arguments about several inputs and the formats of results.

    Args:
        parser: of the command.
        batch: add `--batch`, for a command whose call can be a `BatchSegment`.
    """
    group = parser.add_argument_group("many images")
    group.add_argument("--recursive", action="store_true", help="read folders in folders, too")
    group.add_argument(
        "--every", type=_positive, default=None, metavar="N", help="read every Nth frame of videos"
    )
    group.add_argument(
        "--image-root",
        default="",
        metavar="FOLDER",
        help="folder of the images of COCO files (by default that of the COCO file)",
    )
    group.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="NAME",
        dest="formats",
        help="overlay, json (both by default), jsonl (to the standard output), ...; several with "
        "commas",
    )
    group.add_argument(
        "--workers",
        type=_positive_count,
        default=None,
        metavar="N",
        help="share the images among N processes, each with a model (of several GPUs, each with "
        "the next one; by default 1, on a cluster as many as it has room for)",
    )
    if batch:
        group.add_argument(
            "--batch",
            type=_positive_images,
            default=None,
            metavar="N",
            help="compute up to N images in a row of one size together, in one process "
            "(default: 1)",
        )
    add_cluster_arguments(group)
    group.add_argument(
        "--strict", action="store_true", help="stop at the first image that cannot be segmented"
    )


def is_run(args: argparse.Namespace, images: Sequence[str]) -> bool:
    """Whether a command is about more than one image file with the default formats."""
    from hipie.batch_inference.inputs import is_one_image

    options = (args.recursive, args.every, args.image_root, args.formats, args.strict)
    is_large = (args.workers or 1) > 1 or args.engine != "local" or not is_one_image(images)
    return any(options) or batch_size(args) > 1 or is_large


def split_inputs(arguments: Sequence[str], command: str, what: str) -> tuple[list[str], list[str]]:
    """Split positional arguments into inputs and the texts that follow them.

    The first argument is an input, and those behind it as long as they name something that can be
    read.

    Args:
        arguments: of the command line.
        command: such as "hipie refer".
        what: a text, such as "expression".

    Raises:
        UsageError: if there is no text, or one is the name of a file.
    """
    from hipie.batch_inference.inputs import is_input

    count = 1
    while count < len(arguments) and is_input(arguments[count]):
        count += 1
    texts = [argument_text(argument) for argument in arguments[count:]]
    if not texts:
        raise UsageError(
            f"{arguments[-1]} is the name of a file; write {command} IMAGE... {what.upper()}..."
        )
    for text in texts:
        if os.path.isfile(text):
            raise UsageError(f"{text} is the name of a file; images come before {what}s")
    return list(arguments[:count]), texts


def batch_size(args: argparse.Namespace) -> int:
    """Return how many images are computed together."""
    return getattr(args, "batch", None) or 1


def run_on_images(
    args: argparse.Namespace,
    images: Sequence[str],
    build: BuildCall,
    make_settings: Callable[[], Mapping[str, Any]],
    kinds: Mapping[str, str],
    part_kinds: Callable[[], Mapping[str, str]] = dict,
) -> int:
    """Segment all inputs of a command line into the folder `--output`.

    Args:
        args: with the arguments of `add_run_arguments` and of `add_output_arguments`.
        images: the inputs; see `find_inputs`.
        build: builds the model, and returns it with the call on one image, or on several with
            `--batch`; with `--workers` it is pickled, together with `make_settings`.
        make_settings: what result files say about the command; called after `build`.
        kinds: kinds of the classes by name, in the order of their ids.
        part_kinds: returns those of the parts likewise, which a cluster has to know before.

    Returns:
        The exit status: 0, or 1 if an image could not be segmented.

    Raises:
        UsageError: if there is nothing to read, or the folder cannot take the results.
        InputError, MachineError: see `hipie.batch_inference.run`.
    """
    if batch_size(args) > 1 and ((args.workers or 1) > 1 or args.engine != "local"):
        raise UsageError("--batch is for one process, without --workers and --engine ray")
    build_described = partial(_build_described, args, build, make_settings)
    # Without --batch it returns a call on one image.
    build_single = cast("Callable[[], tuple[Callable[[Any], Segmentation], Any]]", build_described)
    if args.engine == "ray":
        from hipie.cli.cluster_run import run_on_cluster

        return run_on_cluster(args, images, build_single, kinds, part_kinds)
    require_no_cluster_arguments(args)
    from hipie.batch_inference import find_inputs
    from hipie.batch_inference.formats import build_formats
    from hipie.batch_inference.run_folder import require_writable_folder

    formats = build_formats(args.formats)
    require_folder_name(args.output)
    if args.image_root and not os.path.isdir(args.image_root):
        raise UsageError(f"--image-root {args.image_root}: there is no such folder")
    inputs = find_inputs(
        images,
        recursive=args.recursive,
        every=args.every or 1,
        image_root=args.image_root,
        exclude=args.output,
    )
    require_writable_folder(args.output)
    if (args.workers or 1) == 1:
        return _run(args, inputs, formats, kinds, *build_described())
    from hipie.batch_inference.workers import WorkerPool

    with WorkerPool(args.workers, build_single) as pool:
        return _run(args, inputs, formats, kinds, pool, pool.content)


def _build_described(
    args: argparse.Namespace, build: BuildCall, make_settings: Callable[[], Mapping[str, Any]]
) -> tuple[Call, dict[str, Any]]:
    """Build the model, and return its call and what the run has to know about it.

    Returns:
        The call, and `settings` of result files, `identity`, what results depend on,
        `max_pixels`, the largest image that is read, and `vocabulary`, the kinds of the classes
        that the model was trained with, by name.
    """
    from hipie.batch_inference.model_identity import model_identity

    segmenter, segment = build()
    settings = dict(make_settings())
    identity = _identity(settings, args) | model_identity(segmenter.model, segmenter.cfg)
    vocabulary = getattr(segmenter, "vocabulary", None)
    content = {
        "vocabulary": {} if vocabulary is None else dict(_kinds(vocabulary)),
        "settings": settings,
        "identity": identity,
        "max_pixels": segmenter.cfg.INPUT.MAX_PIXELS,
    }
    return segment, content


def _run(
    args: argparse.Namespace,
    inputs: Sequence[Input],
    formats: Sequence[ResultFormat],
    kinds: Mapping[str, str],
    segment: Call | WorkerPool,
    content: Mapping[str, Any],
) -> int:
    from hipie.batch_inference import RunFolder, run
    from hipie.batch_inference.progress import choose_progress
    from hipie.batch_inference.recorder import Summary

    summary = Summary()
    with RunFolder(
        args.output, content["identity"], settings=content["settings"], overwrite=args.overwrite
    ) as folder:
        folder.add_class_names(kinds)
        try:
            run(
                inputs,
                folder,
                formats,
                segment,
                strict=args.strict,
                overwrite=args.overwrite,
                max_pixels=content["max_pixels"],
                progress=choose_progress(),
                summary=summary,
            )
        finally:
            print_summary(args.output, summary)
    return 1 if summary.failed else 0


def _kinds(vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """Yield names and kinds of the classes: parts come last."""
    for is_part in (False, True):
        for entry in vocabulary.classes:
            if (entry.kind == "part") == is_part:
                yield entry.name, entry.kind


def _identity(settings: Mapping[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that results depend on beside the model."""
    ignored = {"version", "model", "config_file", "weights", "device", "opts"}
    identity = {name: value for name, value in settings.items() if name not in ignored}
    sam_weights = getattr(args, "sam_weights", "")
    if sam_weights and os.path.isfile(sam_weights):
        identity["sam_weights"] = file_hash(sam_weights)
    return identity


def file_hash(path: str) -> str:
    """Return the SHA-256 of a file that results depend on.

    Raises:
        OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _positive(text: str, what: str = "frames") -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of {what} from 1")
    return number


def _positive_count(text: str) -> int:
    return _positive(text, "processes")


def _positive_images(text: str) -> int:
    return _positive(text, "images")
