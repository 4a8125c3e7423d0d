"""Find what one image shows in others: `python -m hipie_fewshot --example IMAGE MASK ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.modeling import build_model

from hipie import model_zoo
from hipie_fewshot.support_set import Example


def main(arguments: Sequence[str] | None = None) -> None:
    """Find the examples' object in images, and write each with its mask.

    Raises:
        SystemExit: with one sentence, for what is wrong with the input.
    """
    asked = _parser().parse_args(arguments)
    try:
        cfg = model_zoo.get_config(asked.config_file, ["MODEL.DEVICE", asked.device, *asked.opts])
        model = build_model(cfg).eval()
        examples = [Example.read(image, mask, asked.label) for image, mask in asked.example]
        folder = Path(asked.output)
        for picture in asked.input:
            found = model.segment_like(picture, examples)
            path = found.save(folder / f"{Path(picture).stem}.png")
            one = found.segments[0]
            print(f"{path}: {int(one.mask.sum())} pixels, sure by {one.score:.2f}")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"hipie_fewshot: {' '.join(str(error).split())}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hipie_fewshot", description=__doc__)
    parser.add_argument("--config-file", required=True, help="one of projects/FewShot/configs")
    parser.add_argument(
        "--example", nargs=2, action="append", required=True, metavar=("IMAGE", "MASK")
    )
    parser.add_argument("--input", nargs="+", required=True, help="images to look at")
    parser.add_argument("--label", default="object", help="what the examples show")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", default="output/few_shot", help="a folder")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... of the configuration")
    return parser


if __name__ == "__main__":
    main()
