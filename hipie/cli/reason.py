"""`hipie reason IMAGE... QUESTION...`: answer questions about images with masks."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.cli.arguments import add_model_arguments, build_segmenter
from hipie.cli.files import (
    add_output_arguments,
    make_settings,
    require_one_image,
    require_writable,
    save_result,
)
from hipie.cli.many_images import (
    INPUT_HELP,
    add_run_arguments,
    is_run,
    run_on_images,
    split_inputs,
)
from hipie.errors import UsageError, printable_message

if TYPE_CHECKING:
    from hipie.predictor import Segmenter
    from hipie.segmentation import Segmentation


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer questions, and write a drawing and a JSON file of each image.

    The answers about a single image are printed.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status: 0, or 1 if one of many images could not be segmented.

    Raises:
        ValueError, OSError: for input that cannot be used, in one sentence.
    """
    parser = argparse.ArgumentParser(
        prog="hipie reason", description="Answer questions about images with masks."
    )
    parser.add_argument("image", metavar="IMAGE", help=INPUT_HELP)
    parser.add_argument(
        "question",
        nargs="+",
        metavar="QUESTION",
        help='such as "which of these can fly?"; arguments before it that name files are images, '
        "too",
    )
    parser.add_argument(
        "--language-model",
        default=None,
        metavar="NAME",
        help="chat model of transformers, a folder or a name on the Hugging Face hub, that names "
        "what answers the question; the other model segments it without training for questions",
    )
    add_run_arguments(parser)
    add_output_arguments(parser)
    add_model_arguments(parser)
    args = parser.parse_args(arguments)
    images, questions = split_inputs([args.image, *args.question], "hipie reason", "question")
    if not all(any(letter.isalnum() for letter in question) for question in questions):
        raise UsageError("hipie reason needs a question, with words")
    if is_run(args, images):
        # What a chat model will name is not known before.
        kinds = {} if args.language_model else dict.fromkeys(questions, "expression")
        return run_on_images(
            args,
            images,
            partial(_build, args, questions),
            partial(_settings, args, questions),
            kinds,
        )
    image = require_one_image(images, "hipie reason")
    stem = Path(image).stem
    folder = require_writable(args.output, (f"{stem}.json", f"{stem}.png"), args, [image])
    _, call = _build(args, questions)
    result = call(image)
    for answer in result.answers:
        print(printable_message(answer.text))
    save_result(result, folder, stem, _settings(args, questions))
    return 0


def _build(
    args: argparse.Namespace, questions: list[str]
) -> tuple[Segmenter, Callable[[Any], Segmentation]]:
    segmenter = build_segmenter(args, "universal" if args.language_model else "reasoning")
    return segmenter, lambda image: segmenter.reason(
        image, questions, language_model=args.language_model
    )[1]


def _settings(args: argparse.Namespace, questions: list[str]) -> dict[str, Any]:
    return make_settings(
        "hipie reason", args, questions=questions, language_model=args.language_model
    )
