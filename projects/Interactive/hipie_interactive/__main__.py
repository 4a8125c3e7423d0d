"""One image, one object: `python -m hipie_interactive --image photo.jpg --click 120,80 ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hipie.modeling.sam.predictor import Sam
from hipie_interactive.prompts import Prompt, PromptError, Scribble
from hipie_interactive.session import segment


def main(arguments: Sequence[str] | None = None) -> None:
    """Segment one object, and write the image with its mask.

    Raises:
        SystemExit: with one sentence, for what is wrong with the input.
    """
    asked = _parser().parse_args(arguments)
    try:
        prompt = Prompt(
            inside=[_pair(one) for one in asked.click],
            outside=[_pair(one) for one in asked.outside],
            box=_numbers(asked.box, 4) if asked.box else None,
            scribbles=[Scribble(_pairs(one)) for one in asked.scribble]
            + [Scribble(_pairs(one), False) for one in asked.scribble_outside],
            polygon=_pairs(asked.polygon) if asked.polygon else (),
            label=asked.label,
        )
        found = segment(Sam.from_source(asked.sam, asked.weights), asked.image, [prompt])
    except (ValueError, OSError) as error:
        sys.exit(f"hipie_interactive: {' '.join(str(error).split())}")
    path = found.save(asked.output)
    one = found.segments[0]
    print(f"{path}: {int(one.mask.sum())} pixels, which SAM thinks are right by {one.score:.2f}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hipie_interactive", description=__doc__)
    parser.add_argument("--image", required=True, help="an image")
    parser.add_argument("--sam", default="vit_b", help="vit_b, vit_l, vit_h, or random:tiny")
    parser.add_argument("--weights", default="", help="the file of SAM's weights")
    parser.add_argument("--click", action="append", default=[], metavar="X,Y", help="on the object")
    parser.add_argument("--outside", action="append", default=[], metavar="X,Y", help="not on it")
    parser.add_argument("--box", metavar="X1,Y1,X2,Y2", help="around it")
    parser.add_argument(
        "--scribble", action="append", default=[], metavar="X,Y;X,Y", help="a stroke over it"
    )
    parser.add_argument(
        "--scribble-outside", action="append", default=[], metavar="X,Y;X,Y", help="not over it"
    )
    parser.add_argument("--polygon", metavar="X,Y;X,Y;X,Y", help="its rough outline")
    parser.add_argument("--label", default="object", help="its name in the drawing")
    parser.add_argument("--output", default="mask.png", help="an image, or .json for run lengths")
    return parser


def _pairs(text: str) -> list[tuple[float, float]]:
    return [_pair(part) for part in text.split(";") if part.strip()]


def _pair(text: str) -> tuple[float, float]:
    x, y = _numbers(text, 2)
    return x, y


def _numbers(text: str, count: int) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count:
        raise PromptError(f'"{text}" is not {count} numbers with commas between them')
    return found


if __name__ == "__main__":
    main()
