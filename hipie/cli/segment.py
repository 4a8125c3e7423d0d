"""`hipie segment IMAGE... --things NAMES --stuff NAMES --parts NAMES`: segment by class names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.cli.arguments import (
    add_class_arguments,
    add_model_arguments,
    build_segmenter,
    names_training,
    parse_names,
    parse_parts,
)
from hipie.cli.files import (
    add_output_arguments,
    make_settings,
    report_no_segment,
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
    from hipie.segmenter_calls import SegmentOptions

Classes = list[tuple[str, ...]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment images, and write a drawing and a JSON file for each.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status: 0, or 1 if one of many images could not be segmented.

    Raises:
        ValueError, OSError: for input that cannot be used, in one sentence.
    """
    args = _parser().parse_args(arguments)
    things, stuff = parse_names(args.things), parse_names(args.stuff)
    parts = parse_parts(args.parts)
    if args.everything and not (args.sam or args.sam_weights):
        raise UsageError("--everything needs --sam")
    check_refinement(args)
    if not (things or stuff or parts or args.model or names_training(args)):
        raise UsageError("name at least one class with --things, --stuff or --parts")
    if args.tile is not None:
        from hipie.tiling import check_tiling

        check_tiling(args.tile, args.overlap)
        if args.everything:
            raise UsageError("--everything cannot be combined with --tile")
    if batch_size(args) > 1 and (args.everything or args.tile is not None):
        raise UsageError("--batch cannot be combined with --everything or --tile")
    if is_run(args, args.image):
        return _segment_many(args, things, stuff, parts)
    image = require_one_image(args.image, "hipie segment")
    stem = Path(image).stem
    folder = require_writable(args.output, (f"{stem}.json", f"{stem}.png"), args, [image])
    sam, segmenter = build_sam(args.sam, args.sam_weights), build_segmenter(args)
    if sam is not None:
        sam.to(segmenter.device)
    result = _segment(segmenter, image, args, things, stuff, parts, sam)
    settings = _settings(args, things, stuff, parts)
    save_result(result, folder, stem, settings, args.min_area)
    if not len(result):
        best = segmenter.best_score(image, things, stuff, parts)
        hint = "; --min-score and --min-area set what is kept"
        has_limits = args.min_score is not None or args.min_area is not None
        report_no_segment(image, best, hint if has_limits else "")
    return 0


def _segment(
    segmenter: Segmenter,
    image: Any,
    args: argparse.Namespace,
    things: Classes,
    stuff: Classes,
    parts: Mapping[str, list[str]],
    sam: Sam | None,
) -> Segmentation:
    """Segment one image as the arguments say, and refine the result."""
    if args.everything and sam is not None:
        result = segmenter.segment_everything(image, sam, things, stuff, parts)
    elif args.tile is None:
        result = segmenter.segment(image, things, stuff, parts, **_options(args, sam))
    else:
        result = segmenter.segment_tiled(
            image,
            things,
            stuff,
            parts,
            tile=args.tile,
            overlap=args.overlap,
            **_options(args, sam),
        )
    return refine_result(result, args.refine, sam)


def _options(args: argparse.Namespace, sam: Sam | None) -> SegmentOptions:
    """Return the options of a call; SAM refines in it unless the finished result is refined."""
    return {
        "output": args.output_type,
        "min_score": args.min_score,
        "min_area": args.min_area or 0,
        "max_segments": args.max_segments,
        "sam": None if args.refine == "sam" else sam,
    }


def _segment_many(
    args: argparse.Namespace, things: Classes, stuff: Classes, parts: Mapping[str, list[str]]
) -> int:
    """Segment all inputs of a command line; see `run_on_images`."""
    build = partial(_build, args, things, stuff, parts)
    kinds = {name[0]: "thing" for name in things} | dict.fromkeys(parts, "thing")
    kinds |= {name[0]: "stuff" for name in stuff}
    make_settings = partial(_settings, args, things, stuff, parts)
    part_kinds = partial(_part_kinds, things, stuff, parts)
    return run_on_images(args, args.image, build, make_settings, kinds, part_kinds)


def _part_kinds(things: Classes, stuff: Classes, parts: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the kinds of all classes with a name, as results spell them."""
    from hipie.task_predictors.universal import ClassRequest

    if not (things or stuff or parts):
        return {}
    request = ClassRequest.from_names(things, stuff, parts)
    with_parts = request.part_vocabulary.classes if request.part_vocabulary is not None else ()
    return {entry.name: entry.kind for entry in (*request.vocabulary.classes, *with_parts)}


def _build(
    args: argparse.Namespace, things: Classes, stuff: Classes, parts: Mapping[str, list[str]]
) -> tuple[Segmenter, Callable[[Any], Segmentation] | BatchSegment]:
    """Build the model, and return it with the call on one image, or on several."""
    sam, segmenter = build_sam(args.sam, args.sam_weights), build_segmenter(args)
    if sam is not None:
        sam.to(segmenter.device)
    if (batch := batch_size(args)) > 1:
        options = _options(args, sam)
        return segmenter, refine_batches(
            lambda images, on_error: segmenter.stream(
                images, things, stuff, parts, on_error=on_error, batch=batch, **options
            ),
            args.refine,
            sam,
        )
    return segmenter, lambda image: _segment(segmenter, image, args, things, stuff, parts, sam)


def _settings(
    args: argparse.Namespace, things: Classes, stuff: Classes, parts: Mapping[str, list[str]]
) -> dict[str, Any]:
    """Return the settings of result files."""
    requested: dict[str, Any] = {
        "things": things,
        "stuff": stuff,
        "parts": parts,
        "output_type": args.output_type,
        "min_score": args.min_score,
        "min_area": args.min_area,
        "max_segments": args.max_segments,
        "sam": args.sam or None,
    }
    if args.refine:
        requested["refine"] = args.refine
    if args.tile is not None:
        requested |= {"tile": args.tile, "overlap": args.overlap}
    return make_settings("hipie segment", args, **requested)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hipie segment", description="Segment things, stuff and parts by their names."
    )
    parser.add_argument("image", nargs="+", metavar="IMAGE", help=INPUT_HELP)
    add_run_arguments(parser, batch=True)
    add_output_arguments(parser)
    parser.add_argument(
        "--output-type",
        default="panoptic",
        choices=("panoptic", "instances", "semantic"),
        help="segments without overlap, every instance of a thing, or one segment a class",
    )
    parser.add_argument(
        "--min-score", type=float, metavar="SCORE", help="drop segments with a lower score (0..1)"
    )
    parser.add_argument(
        "--min-area",
        type=int,
        metavar="PIXELS",
        help="drop segments and parts with fewer pixels (the legend leaves out the smallest)",
    )
    parser.add_argument(
        "--max-segments",
        type=int,
        metavar="N",
        help="keep the N segments with the highest scores",
    )
    add_refinement_arguments(
        parser, "refine masks by SAM: sam-vit-b, mobile-sam, ... of hipie models list"
    )
    parser.add_argument(
        "--everything", action="store_true", help="give class names to SAM's automatic masks"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="segment larger images in square tiles of this size, and join what they cut",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        default=0.25,
        metavar="SHARE",
        help="share of a tile's side that neighbours have in common, 0 to 0.5",
    )
    add_class_arguments(parser)
    add_model_arguments(parser)
    return parser
