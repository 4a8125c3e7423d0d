"""`hipie refer IMAGE... EXPRESSION...`: segment the object that each expression describes."""

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
    report_if_empty,
    require_one_image,
    require_writable,
    save_result,
)
from hipie.cli.many_images import (
    INPUT_HELP,
    add_run_arguments,
    batch_size,
    is_run,
    run_on_images,
    split_inputs,
)
from hipie.cli.refinement import (
    add_refinement_arguments,
    build_sam,
    check_refinement,
    refine_batches,
    refine_result,
)
from hipie.errors import UsageError

if TYPE_CHECKING:
    from hipie.batch_inference.recorder import BatchSegment
    from hipie.modeling.sam.predictor import Sam
    from hipie.predictor import Segmenter
    from hipie.segmentation import Segmentation


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment the objects of expressions, and write a drawing and a JSON file.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status: 0, or 1 if one of many images could not be segmented.

    Raises:
        ValueError, OSError: for input that cannot be used, in one sentence.
    """
    parser = argparse.ArgumentParser(
        prog="hipie refer", description="Segment the object that an expression describes."
    )
    parser.add_argument("image", metavar="IMAGE", help=INPUT_HELP)
    parser.add_argument(
        "expression",
        nargs="+",
        metavar="EXPRESSION",
        help="what is segmented; arguments before it that name files are images, too",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="SCORE",
        help="score in 0 to 1 below which an expression describes nothing; by default that of the "
        "configuration (MODEL.HIPIE.TEST.NO_TARGET), 0: every expression describes something",
    )
    parser.add_argument(
        "--tile",
        default=None,
        metavar="PIXELS",
        help="refused: an expression describes an object in its whole image, which no tile shows",
    )
    add_refinement_arguments(
        parser, "the SAM of --refine sam: sam-vit-b, mobile-sam, ... of hipie models list"
    )
    add_run_arguments(parser, batch=True)
    add_output_arguments(parser)
    add_model_arguments(parser)
    args = parser.parse_args(arguments)
    if args.tile is not None:
        raise UsageError(
            'hipie refer cannot read tiles: an expression, such as "the car on the left", '
            "describes an object in its whole image; cut the image, or name classes for hipie "
            "segment --tile"
        )
    check_refinement(args)
    if args.refine != "sam" and (args.sam or args.sam_weights):
        raise UsageError("--sam and --sam-weights are for --refine sam")
    images, expressions = split_inputs([args.image, *args.expression], "hipie refer", "expression")
    if is_run(args, images):
        return run_on_images(
            args,
            images,
            partial(_build, args, expressions),
            partial(_settings, args, expressions),
            dict.fromkeys(expressions, "expression"),
        )
    image = require_one_image(images, "hipie refer")
    stem = Path(image).stem
    folder = require_writable(args.output, (f"{stem}.json", f"{stem}.png"), args, [image])
    segmenter, sam = _build_models(args)
    result = segmenter.refer(image, expressions, threshold=args.threshold)
    result = refine_result(result, args.refine, sam)
    settings = _settings(args, expressions)
    save_result(result, folder, stem, settings)
    report_if_empty(image, result)
    return 0


def _build(
    args: argparse.Namespace, expressions: list[str]
) -> tuple[Segmenter, Callable[[Any], Segmentation] | BatchSegment]:
    segmenter, sam = _build_models(args)
    if (batch := batch_size(args)) > 1:
        return segmenter, refine_batches(
            lambda images, on_error: segmenter.stream(
                images,
                expressions=expressions,
                threshold=args.threshold,
                on_error=on_error,
                batch=batch,
            ),
            args.refine,
            sam,
        )
    return segmenter, lambda image: refine_result(
        segmenter.refer(image, expressions, threshold=args.threshold), args.refine, sam
    )


def _build_models(args: argparse.Namespace) -> tuple[Segmenter, Sam | None]:
    """Build the SAM that refines masks, if any, and the model."""
    sam, segmenter = build_sam(args.sam, args.sam_weights), build_segmenter(args)
    if sam is not None:
        sam.to(segmenter.device)
    return segmenter, sam


def _settings(args: argparse.Namespace, expressions: list[str]) -> dict[str, Any]:
    refined = {"refine": args.refine, "sam": args.sam or None} if args.refine else {}
    return make_settings(
        "hipie refer", args, expressions=expressions, threshold=args.threshold, **refined
    )
