"""``python -m hipie.data.show DATASET --output DIR``: pages of a data set with their annotation.

Draws contact sheets: every image with its masks and their names, parts, or the expressions with the
numbers of the objects that they mean.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hipie.data.annotation_view import AnnotatedImage, read_annotated
from hipie.data.dataset_argument import add_arguments, open_dataset, spread
from hipie.visualizer import contact_sheet, draw_segments

IMAGES_A_SHEET = 4
DEFAULT_COUNT = 8
EXPRESSIONS_PER_IMAGE = 12


def draw_annotated(found: AnnotatedImage, title: str) -> Image.Image:
    """An image with its masks and a legend; expressions stand below, with their objects' numbers."""
    shown = spread(found.expressions, EXPRESSIONS_PER_IMAGE)
    notes = [f'"{one.text}": {_meant(one.targets)}' for one in shown]
    if len(shown) < len(found.expressions):
        notes.append(f"and {len(found.expressions) - len(shown)} more expressions")
    return draw_segments(found.image, found.segments, title, scores=False, notes=notes)


def show(args: argparse.Namespace) -> list[Path]:
    """Write the sheets that the arguments ask for, and return their files."""
    args.count = DEFAULT_COUNT if args.count is None else args.count
    records, metadata = open_dataset(args)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for start in range(0, len(records), IMAGES_A_SHEET):
        drawings = [
            draw_annotated(read_annotated(record, metadata), Path(record["file_name"]).name)
            for record in records[start : start + IMAGES_A_SHEET]
        ]
        name = f"{Path(args.dataset).stem}_{start // IMAGES_A_SHEET}.png"
        contact_sheet(drawings, title=args.dataset).save(folder / name)
        files.append(folder / name)
    return files


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of every command, and where the sheets go."""
    parser.add_argument("--output", required=True, metavar="DIR", help="where the sheets go")
    add_arguments(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0, or 1 after one sentence on an error."""
    parser = argparse.ArgumentParser(prog="hipie data show", description="Look at a data set.")
    add_show_arguments(parser)
    try:
        for file in show(parser.parse_args(arguments)):
            print(file)
    except (ValueError, OSError) as error:
        print(f"hipie data show: {error}", file=sys.stderr)
        return 1
    return 0


def _meant(targets: Sequence[int]) -> str:
    return "nothing" if not targets else ", ".join(str(target + 1) for target in targets)


if __name__ == "__main__":
    sys.exit(main())
