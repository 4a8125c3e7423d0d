#!/usr/bin/env python
"""Draw the first image of the README: a photograph of the package, segmented by the photo model.

    python docs/draw_readme_image.py
    python docs/draw_readme_image.py --photograph cow --model hipie-r50

The drawing is docs/images/photograph.jpg. Without `--model` it needs the packaged weights that were
trained on photographs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hipie import Segmenter
from hipie.cli.photograph_demo import PHOTO_CONFIG, PHOTOGRAPHS, packaged_config
from hipie.error_report import one_line_errors
from hipie.errors import InputError

TARGET = Path(__file__).parent / "images" / "photograph.jpg"


def main() -> int:
    """Run the program."""
    photographs = {photograph.name: photograph for photograph in PHOTOGRAPHS}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photograph", choices=sorted(photographs), default="horses")
    parser.add_argument("--model", default=None, help="a name of hipie models list")
    parser.add_argument("--output", type=Path, default=TARGET)
    args = parser.parse_args()
    with one_line_errors("draw_readme_image.py"):
        photograph = photographs[args.photograph]
        if args.model:
            segmenter = Segmenter.from_pretrained(args.model)
        elif packaged_config(PHOTO_CONFIG):
            segmenter = Segmenter.from_config(PHOTO_CONFIG)
        else:
            raise InputError(f"the package has no weights of {PHOTO_CONFIG}: give --model")
        names = photograph.things, photograph.stuff, dict(photograph.parts)
        result = segmenter.segment(photograph.read(), *names)
        print(result.save(args.output, overwrite=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
