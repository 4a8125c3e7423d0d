"""`hipie refer IMAGE EXPRESSION...`: segment the object that each expression describes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from hipie.cli.arguments import add_model_arguments, argument_text, build_segmenter
from hipie.cli.files import (
    add_output_arguments,
    make_settings,
    report_if_empty,
    require_one_image,
    require_writable,
    save_result,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment the objects of expressions, and write a drawing and a JSON file.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        0, the exit status.

    Raises:
        ValueError, OSError: for input that cannot be used, in one sentence.
    """
    parser = argparse.ArgumentParser(
        prog="hipie refer", description="Segment the object that an expression describes."
    )
    parser.add_argument("image")
    parser.add_argument("expression", nargs="+")
    add_output_arguments(parser)
    add_model_arguments(parser)
    args = parser.parse_args(arguments)
    expressions = [argument_text(expression) for expression in args.expression]
    files = [expression for expression in expressions if os.path.exists(expression)]
    require_one_image([args.image, *files], "hipie refer")
    stem = Path(args.image).stem
    folder = require_writable(args.output, (f"{stem}.json", f"{stem}.png"), args, [args.image])
    result = build_segmenter(args).refer(args.image, expressions)
    settings = make_settings("hipie refer", args, expressions=expressions)
    save_result(result, folder, stem, settings)
    report_if_empty(args.image, result)
    return 0
