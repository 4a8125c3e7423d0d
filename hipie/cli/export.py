"""`hipie export --model NAME --format onnx --things NAMES --output FILE`: export a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hipie.cli.arguments import (
    add_class_arguments,
    add_model_arguments,
    build_segmenter,
    parse_names,
    parse_parts,
)
from hipie.errors import UsageError

FORMATS = ("onnx", "openvino", "torchexport")
MAX_GROUP_IMAGES = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a model, and print the names of the files.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status.

    Raises:
        ValueError, OSError: for input that cannot be used, in one sentence.
    """
    args = _parser().parse_args(arguments)
    things, stuff = parse_names(args.things), parse_names(args.stuff)
    if parse_parts(args.parts):
        raise UsageError("parts of things are not exported: leave --parts out")
    if (things or stuff) and args.open_vocabulary:
        raise UsageError(
            "with --open-vocabulary class names are an input of the exported model: leave --things "
            "and --stuff out"
        )
    if args.precision not in (None, "float32") or args.compile:
        raise UsageError("models are exported in float32: leave --precision and --compile out")
    from hipie.export.formats import export_model
    from hipie.export.traceable import ExportRequest
    from hipie.vocabularies import Vocabulary

    vocabulary = Vocabulary.from_names(things=things, stuff=stuff) if things or stuff else None
    args.device = args.device or "cpu"
    segmenter = build_segmenter(args)
    has_names = "universal" in segmenter.model.tasks
    if has_names and vocabulary is None and not args.open_vocabulary:
        raise UsageError("name at least one class with --things or --stuff, or --open-vocabulary")
    request = ExportRequest(vocabulary, args.num_images)
    output = Path(args.output)
    for file in export_model(segmenter.model, segmenter.cfg, request, output, args.export_format):
        print(file)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hipie export", description="Export a model to a file.")
    parser.add_argument(
        "--format", required=True, choices=FORMATS, dest="export_format", help="kind of file"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help=".onnx, .xml or .pt2")
    parser.add_argument(
        "--open-vocabulary",
        action="store_true",
        help="class names are an input; the text encoder is a second file",
    )
    parser.add_argument(
        "--num-images",
        type=_group_size,
        metavar="N",
        help="images of a group, for models of groups (default: MODEL.GRSER.GROUP_SIZE)",
    )
    add_class_arguments(parser)
    add_model_arguments(parser)
    return parser


def _group_size(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= number <= MAX_GROUP_IMAGES:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {MAX_GROUP_IMAGES}")
    return number
