"""`hipie reason IMAGE QUESTION`: answer a question about an image with masks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hipie.cli.arguments import add_model_arguments, argument_text, build_segmenter
from hipie.cli.files import (
    add_output_arguments,
    make_settings,
    require_one_image,
    require_writable,
    save_result,
)
from hipie.errors import UsageError, printable_message


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer a question, print the answer, and write a drawing and a JSON file.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status, 0.

    Raises:
        ValueError, OSError: for input that cannot be used, in one sentence.
    """
    parser = argparse.ArgumentParser(
        prog="hipie reason", description="Answer a question about an image with masks."
    )
    parser.add_argument("image", metavar="IMAGE", help="image file")
    parser.add_argument("question", metavar="QUESTION", help='such as "which of these can fly?"')
    parser.add_argument(
        "--language-model",
        default=None,
        metavar="NAME",
        help="chat model of transformers, a folder or a name on the Hugging Face hub, that names "
        "what answers the question; the other model segments it without training for questions",
    )
    add_output_arguments(parser)
    add_model_arguments(parser)
    args = parser.parse_args(arguments)
    image, question = require_one_image([args.image], "hipie reason"), argument_text(args.question)
    if not any(letter.isalnum() for letter in question):
        raise UsageError("hipie reason needs a question, with words")
    stem = Path(image).stem
    folder = require_writable(args.output, (f"{stem}.json", f"{stem}.png"), args, [image])
    segmenter = build_segmenter(args, "universal" if args.language_model else "reasoning")
    answer, result = segmenter.reason(image, question, language_model=args.language_model)
    settings = make_settings(
        "hipie reason", args, question=question, language_model=args.language_model
    )
    print(printable_message(answer))
    save_result(result, folder, stem, settings)
    return 0
