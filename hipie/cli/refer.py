"""`hipie refer IMAGE EXPRESSION...`: segment the object that each expression describes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hipie.cli.arguments import add_model_arguments, argument_text, build_segmenter
from hipie.cli.files import require_separate_output, save_result


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment the objects of expressions, and write a drawing and a JSON file of COCO results.

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
    parser.add_argument("--output", default="output", metavar="FOLDER")
    add_model_arguments(parser)
    args = parser.parse_args(arguments)
    expressions = [argument_text(expression) for expression in args.expression]
    stem = Path(args.image).stem
    require_separate_output([args.image], args.output, stem)
    save_result(build_segmenter(args).refer(args.image, expressions), args.output, stem)
    return 0
