"""Command `hipie data convert SOURCE --output DIR`: annotations as a training set."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hipie.cli.arguments import parse_names
from hipie.cli.files import require_folder_name
from hipie.data.conversion import (
    READERS,
    Counts,
    ReadOptions,
    read_annotations,
    write_instances,
    write_panoptic,
)
from hipie.data.conversion.annotations import KINDS
from hipie.data.conversion.writing import INSTANCES, PANOPTIC, Selection
from hipie.error_report import one_line_errors
from hipie.errors import UsageError, printable_message
from hipie.result_files import require_replaceable

PROGRAM = "hipie data convert"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        0, the exit status.

    Raises:
        SystemExit: with one line, see `one_line_errors`.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Convert annotations to COCO instances or COCO panoptic, which hipie train "
        "takes: results of hipie segment, or what an annotation tool has exported.",
    )
    parser.add_argument("source", metavar="SOURCE", help="file, or folder of a format of files")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder for the training set"
    )
    parser.add_argument(
        "--format",
        default="",
        choices=["", *sorted(READERS)],
        metavar="NAME",
        help=f"of SOURCE, by default recognised: {', '.join(sorted(READERS))}",
    )
    parser.add_argument(
        "--to",
        default="coco",
        choices=["coco", "coco-panoptic"],
        help=f"{INSTANCES} (default), or {PANOPTIC} with a folder of PNG files",
    )
    parser.add_argument(
        "--image-root",
        default="",
        metavar="DIR",
        help="folder of the images, from which their names, or the ends of these, lead",
    )
    parser.add_argument(
        "--allow-outside-files",
        action="store_true",
        help="read images by absolute names and names with .. in the annotations",
    )
    parser.add_argument(
        "--stuff", default="", metavar="NAMES", help='classes that are stuff: "grass; sky"'
    )
    parser.add_argument(
        "--kinds", default="", metavar="KINDS", help=f"only these of {', '.join(KINDS)}"
    )
    parser.add_argument(
        "--min-score", type=float, default=0.0, metavar="SCORE", help="only segments from it on"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that hipie did not write"
    )
    args = parser.parse_args(arguments)
    with one_line_errors(PROGRAM):
        counts = convert(args)
        file = Path(args.output) / (INSTANCES if args.to == "coco" else PANOPTIC)
        print(
            printable_message(
                f"{file}: images: {counts.images}; segments: {counts.segments}; classes: "
                f"{len(counts.classes)}; the images are in {counts.image_root}"
            )
        )
    return 0


def convert(args: argparse.Namespace) -> Counts:
    """Convert the annotations of a command line.

    Raises:
        UsageError: for arguments that cannot be used.
        DatasetError, InputError: naming the file that cannot be read or written.
    """
    kinds = frozenset(kind.strip() for kind in args.kinds.split(",") if kind.strip())
    if kinds - {*KINDS}:
        raise UsageError(f"--kinds {args.kinds}: kinds are {', '.join(KINDS)}")
    if not 0 <= args.min_score <= 1:
        raise UsageError(f"--min-score {args.min_score} is not in 0 to 1")
    if args.image_root and not os.path.isdir(args.image_root):
        raise UsageError(f"--image-root {args.image_root}: there is no such folder")
    folder = require_folder_name(args.output)
    file = folder / (INSTANCES if args.to == "coco" else PANOPTIC)
    require_replaceable(file, [(args.source, "source")], args.overwrite)
    stuff = frozenset(name for names in parse_names(args.stuff) for name in names)
    selection = Selection(stuff, kinds, args.min_score)
    options = ReadOptions(args.image_root, args.allow_outside_files)
    annotations = read_annotations(args.source, args.format, options)
    write = write_instances if args.to == "coco" else write_panoptic
    return write(annotations, folder, selection)


if __name__ == "__main__":
    sys.exit(main())
