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


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a model with its class names, and print the file's name.

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
    if not (things or stuff):
        raise UsageError("name at least one class with --things or --stuff")
    if args.precision not in (None, "float32"):
        raise UsageError("models are exported in float32: leave --precision out")
    from hipie.export.formats import export_model
    from hipie.vocabularies import Vocabulary

    vocabulary = Vocabulary.from_names(things=things, stuff=stuff)
    args.device = args.device or "cpu"
    segmenter = build_segmenter(args)
    export_model(segmenter.model, segmenter.cfg, vocabulary, Path(args.output), args.export_format)
    print(args.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hipie export", description="Export a model with its class names to one file."
    )
    parser.add_argument(
        "--format", required=True, choices=FORMATS, dest="export_format", help="kind of file"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help=".onnx, .xml or .pt2")
    add_class_arguments(parser)
    add_model_arguments(parser)
    return parser
