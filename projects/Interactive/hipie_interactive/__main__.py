"""Interactive segmentation: `python -m hipie_interactive --image a.jpg --click 120,80`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hipie import __version__
from hipie.cli.many_images import INPUT_HELP, RunModel, add_run_arguments, is_run, run_on_images
from hipie.downloads import add_network_arguments
from hipie.error_report import run_program
from hipie.errors import UsageError, printable
from hipie.result_files import require_replaceable

if TYPE_CHECKING:
    from hipie.modeling.sam.predictor import Sam
    from hipie.segmentation import Segmentation
    from hipie_interactive.modeling.prompts import Prompt

PROGRAM = "python -m hipie_interactive"
OUTPUT, MANY_OUTPUT = "mask.png", "output/interactive"


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment one object, and write the image with its mask; in several images by one prompt.

    Returns:
        The exit status: 0, or 1 if one of several images could not be segmented.

    Raises:
        SystemExit: after an error or Ctrl-C, see `hipie.error_report.one_line_errors`.
    """
    return run_program(PROGRAM, lambda: _run(_parser().parse_args(arguments)))


def _run(args: argparse.Namespace) -> int:
    # Inside: a package that is missing or broken is an error of the program.
    from hipie.batch_inference.inputs import is_one_image

    prompt = _read_prompt(args)
    if is_run(args, args.image[:1]) or not is_one_image(args.image):
        if args.output is None:
            args.output = MANY_OUTPUT
        return run_on_images(
            args,
            args.image,
            partial(_build, args, prompt),
            partial(_settings, args, prompt),
            {args.label: "thing"},
        )
    from hipie_interactive.session import segment

    (image,), output = args.image, args.output or OUTPUT
    read = [(image, "image"), *([(args.weights, "file")] if args.weights else [])]
    require_replaceable(output, read, args.overwrite)
    result = segment(_build_sam(args), image, [prompt])
    path = result.save(output, overwrite=True)
    mask = result.segments[0]
    print(
        f"{printable(path)}: {int(mask.mask.sum())} pixels, IoU predicted by SAM {mask.score:.2f}"
    )
    return 0


def _read_prompt(args: argparse.Namespace) -> Prompt:
    from hipie_interactive.modeling.prompts import Prompt, Scribble

    return Prompt(
        inside=[_parse_point(text) for text in args.click],
        outside=[_parse_point(text) for text in args.outside],
        box=_parse_box(args.box) if args.box else None,
        scribbles=[Scribble(_parse_points(text)) for text in args.scribble]
        + [Scribble(_parse_points(text), False) for text in args.scribble_outside],
        polygon=_parse_points(args.polygon) if args.polygon else (),
        label=args.label,
    )


def _build_sam(args: argparse.Namespace) -> Sam:
    from hipie.model_zoo import sam_source
    from hipie.modeling.sam.predictor import Sam

    return Sam.from_source(*sam_source(args.sam, args.weights))


def _build(
    args: argparse.Namespace, prompt: Prompt
) -> tuple[RunModel, Callable[[Any], Segmentation]]:
    """Build SAM, and return it with the call on one image; each has the same prompt."""
    from detectron2.config import CfgNode

    from hipie.data.image_io import ImageError
    from hipie.data.io.reading_rules import MAX_PIXELS
    from hipie_interactive.modeling.prompts import PromptError
    from hipie_interactive.session import segment

    sam = _build_sam(args)

    def call(image: Any) -> Segmentation:
        try:
            return segment(sam, image, [prompt])
        except PromptError as error:  # A point that is outside of this image.
            raise ImageError(str(error)) from error

    return RunModel(sam.model, CfgNode({"INPUT": {"MAX_PIXELS": MAX_PIXELS}})), call


def _settings(args: argparse.Namespace, prompt: Prompt) -> dict[str, Any]:
    """Return what the results depend on beside the model: the prompt."""
    names = ("sam", "click", "outside", "box", "scribble", "scribble_outside", "polygon", "label")
    settings = {"program": "hipie interactive", "version": __version__, "weights": args.weights}
    return settings | {name: getattr(args, name) for name in names}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--image", required=True, nargs="+", help=INPUT_HELP)
    parser.add_argument(
        "--sam",
        "--model",
        default="vit_b",
        help="sam-vit-b, sam-vit-l or sam-vit-h; with --weights vit_b, vit_l or vit_h; random:tiny",
    )
    parser.add_argument("--weights", default="", help="checkpoint file of SAM")
    parser.add_argument("--click", action="append", default=[], metavar="X,Y", help="on the object")
    parser.add_argument(
        "--outside", action="append", default=[], metavar="X,Y", help="on the background"
    )
    parser.add_argument("--box", metavar="X1,Y1,X2,Y2", help="around the object")
    parser.add_argument(
        "--scribble", action="append", default=[], metavar="X,Y;X,Y", help="on the object"
    )
    parser.add_argument(
        "--scribble-outside",
        action="append",
        default=[],
        metavar="X,Y;X,Y",
        help="on the background",
    )
    parser.add_argument("--polygon", metavar="X,Y;X,Y;X,Y", help="rough outline of the object")
    parser.add_argument("--label", default="object", help="name of the object")
    parser.add_argument(
        "--output",
        help=f"an image, by default {OUTPUT}, or .json for RLE masks; a folder for several images, "
        f"by default {MANY_OUTPUT}",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that hipie did not write"
    )
    add_run_arguments(parser)
    add_network_arguments(parser)
    return parser


def _parse_points(text: str) -> list[tuple[float, float]]:
    return [_parse_point(part) for part in text.split(";") if part.strip()]


def _parse_point(text: str) -> tuple[float, float]:
    x, y = _parse_numbers(text, 2)
    return x, y


def _parse_box(text: str) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = _parse_numbers(text, 4)
    return x1, y1, x2, y2


def _parse_numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise UsageError(f'"{text}" is not {count} numbers with commas between them')
    return numbers


if __name__ == "__main__":
    sys.exit(main())
