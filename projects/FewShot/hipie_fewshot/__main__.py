"""Few-shot segmentation on the command line: `python -m hipie_fewshot --example IMAGE MASK ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hipie import __version__
from hipie.cli.files import add_output_arguments, require_writable, unique_stems
from hipie.cli.many_images import (
    INPUT_HELP,
    add_run_arguments,
    file_hash,
    is_run,
    run_on_images,
)
from hipie.code_permission import add_import_arguments
from hipie.downloads import add_network_arguments
from hipie.error_report import run_program
from hipie.errors import printable

if TYPE_CHECKING:
    from hipie.predictor import Segmenter
    from hipie.segmentation import Segmentation

PROGRAM = "python -m hipie_fewshot"


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment the examples' object in images, and write each image with its mask.

    Returns:
        The exit status, 0.

    Raises:
        SystemExit: after an error or Ctrl-C, see `hipie.error_report.one_line_errors`.
    """
    return run_program(PROGRAM, lambda: _run(_parser().parse_args(arguments)))


def _run(args: argparse.Namespace) -> int:
    # Inside: a package that is missing or broken is an error of the program.
    from hipie.batch_inference.inputs import is_one_image

    many = not all(is_one_image([name]) for name in args.input)
    if many or is_run(args, args.input[:1]):
        return run_on_images(
            args,
            args.input,
            partial(_build, args),
            partial(_settings, args),
            {args.label: "thing"},
        )
    names = [f"{stem}.png" for stem in unique_stems(args.input)]
    read = [*args.input, *(file for pair in args.example for file in pair)]
    folder = require_writable(args.output, names, args, read)
    _, like = _build(args)
    for image, name in zip(args.input, names, strict=True):
        result = like(image)
        path = result.save(folder / name, overwrite=True)
        segment = result.segments[0]
        print(f"{printable(path)}: {int(segment.mask.sum())} pixels, score {segment.score:.2f}")
    return 0


def _build(args: argparse.Namespace) -> tuple[Segmenter, Callable[[Any], Segmentation]]:
    """Build the model and read the examples; return the model with the call on an image."""
    from hipie import Segmenter
    from hipie.data.io.reading_rules import read_by, rules_of
    from hipie_fewshot.support_set import Example

    segmenter = (
        Segmenter.from_pretrained(args.model, args.device, args.opts)
        if args.model
        else Segmenter.from_config(args.config_file, device=args.device, opts=args.opts)
    )
    with read_by(rules_of(segmenter.cfg)):
        examples = [Example.read(image, mask, args.label) for image, mask in args.example]
    stream = sys.stderr if "jsonl" in ",".join(args.formats) else sys.stdout
    for (_, mask), example in zip(args.example, examples, strict=True):
        share = f"{100 * example.share:.1f} % of the pixels are the object"
        print(f"{printable(mask)}: {share}", file=stream)
    return segmenter, lambda image: segmenter.like(image, examples)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the results depend on beside the model: the examples, by their content."""
    names = ("model", "config_file", "device", "opts", "label")
    settings = {"program": "hipie few-shot", "version": __version__}
    settings |= {name: getattr(args, name) for name in names}
    examples = [[file_hash(file) for file in pair] for pair in args.example]
    return settings | {"weights": None, "examples": examples}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="NAME", help="a model of hipie models list")
    source.add_argument("--config-file", help="a file of projects/FewShot/configs")
    parser.add_argument(
        "--example",
        nargs=2,
        action="append",
        required=True,
        metavar=("IMAGE", "MASK"),
        help="image with the mask of one object; can be repeated",
    )
    parser.add_argument("--input", nargs="+", required=True, help=INPUT_HELP)
    parser.add_argument("--label", default="object", help="class name of the examples' object")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    add_run_arguments(parser)
    add_output_arguments(parser, "output/few_shot")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration KEY VALUE ...")
    add_network_arguments(parser)
    add_import_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
