"""Drawing of a data set: ``hipie data show DATASET --output DIR`` or ``python -m hipie.data.show``.

Writes contact sheets: images with the masks and labels of their objects, stuff and parts, or with
the expressions and the numbers of their target objects.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hipie.data.annotation_view import AnnotationView, read_annotation
from hipie.data.dataset_argument import add_arguments, open_dataset, sample_evenly
from hipie.error_report import one_line_errors
from hipie.errors import printable_message
from hipie.result_files import require_replaceable, write_drawing
from hipie.visualizer import contact_sheet, draw_segments

IMAGES_PER_SHEET = 4
DEFAULT_COUNT = 8
MAX_EXPRESSIONS = 12


def draw_annotation(view: AnnotationView, title: str) -> Image.Image:
    """Draw an image with its masks and a legend, and its expressions below.

    Args:
        view: the image and its annotation.
        title: title of the drawing.
    """
    drawn = sample_evenly(view.expressions, MAX_EXPRESSIONS)
    notes = [f'"{entry.text}": {_format_targets(entry.targets)}' for entry in drawn]
    if len(drawn) < len(view.expressions):
        notes.append(f"and {len(view.expressions) - len(drawn)} more expressions")
    return draw_segments(view.image, view.segments, title, scores=False, notes=notes, min_area=0)


def show(args: argparse.Namespace) -> list[Path]:
    """Write the contact sheets of a data set, and return their paths."""
    args.count = DEFAULT_COUNT if args.count is None else args.count
    records, metadata = open_dataset(args)
    folder, starts = Path(args.output), range(0, len(records), IMAGES_PER_SHEET)
    stem = Path(args.dataset).stem
    files = [folder / f"{stem}_{number}.png" for number in range(len(starts))]
    images = [(record["file_name"], "image") for record in records]
    for file in files:
        require_replaceable(file, images, args.overwrite)
    for file, start in zip(files, starts, strict=True):
        drawings = [
            draw_annotation(read_annotation(record, metadata), Path(record["file_name"]).name)
            for record in records[start : start + IMAGES_PER_SHEET]
        ]
        write_drawing(file, contact_sheet(drawings, title=args.dataset))
    return files


def add_show_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the program."""
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the sheets")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files in it that hipie did not write"
    )
    add_arguments(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        0, the exit status.

    Raises:
        SystemExit: with one line, if it cannot be opened or drawn; see `one_line_errors`.
    """
    parser = argparse.ArgumentParser(prog="hipie data show", description="Draw a data set.")
    add_show_arguments(parser)
    args = parser.parse_args(arguments)
    with one_line_errors("hipie data show"):
        for file in show(args):
            print(printable_message(str(file)))
    return 0


def _format_targets(targets: Sequence[int]) -> str:
    return ", ".join(str(target + 1) for target in targets) or "no target"


if __name__ == "__main__":
    sys.exit(main())
