"""Few-shot segmentation on the command line: `python -m hipie_fewshot --example IMAGE MASK ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hipie import Segmenter
from hipie.errors import printable, printable_message
from hipie_fewshot.support_set import Example


def main(arguments: Sequence[str] | None = None) -> None:
    """Segment the examples' object in images, and write each image with its mask.

    Raises:
        SystemExit: with one sentence, for invalid input.
    """
    args = _parser().parse_args(arguments)
    try:
        segmenter = (
            Segmenter.from_pretrained(args.model, args.device, args.opts)
            if args.model
            else Segmenter.from_config(args.config_file, device=args.device, opts=args.opts)
        )
        examples = [Example.read(image, mask, args.label) for image, mask in args.example]
        for (_, mask), example in zip(args.example, examples, strict=True):
            print(f"{mask}: {100 * example.share:.1f} % of the pixels are the object")
        folder = Path(args.output)
        for image in args.input:
            result = segmenter.like(image, examples)
            path = result.save(folder / f"{Path(image).stem}.png")
            segment = result.segments[0]
            print(f"{printable(path)}: {int(segment.mask.sum())} pixels, score {segment.score:.2f}")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(printable_message(f"hipie_fewshot: {error}"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hipie_fewshot", description=__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="NAME", help="a model of hipie models list")
    source.add_argument("--config-file", help="a file of projects/FewShot/configs")
    parser.add_argument(
        "--example", nargs=2, action="append", required=True, metavar=("IMAGE", "MASK")
    )
    parser.add_argument("--input", nargs="+", required=True, help="query images")
    parser.add_argument("--label", default="object", help="class name of the examples' object")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", default="output/few_shot", help="output folder")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration KEY VALUE ...")
    return parser


if __name__ == "__main__":
    main()
