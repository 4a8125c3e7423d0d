"""`hipie group EXPRESSION IMAGE...`: segment one expression's object in several images."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from hipie.cli.arguments import add_model_arguments, argument_text, build_segmenter
from hipie.cli.files import (
    add_output_arguments,
    make_settings,
    readable_images,
    require_no_folder,
    require_writable,
)
from hipie.errors import UsageError, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment a group of images, and write a contact sheet and a JSON file.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        0, the exit status.

    Raises:
        ValueError, OSError: for input that cannot be used, in one sentence.
    """
    from hipie.heatmap_drawing import draw_heatmaps
    from hipie.result_files import write_drawing, write_json
    from hipie.segmentation import group_to_dicts
    from hipie.visualizer import draw_group

    parser = argparse.ArgumentParser(
        prog="hipie group",
        description="Segment the object that one expression describes in several images.",
    )
    parser.add_argument("expression", help='what is segmented, such as "the yellow kite"')
    parser.add_argument("images", nargs="+", help="files of the images of the group")
    add_output_arguments(parser)
    parser.add_argument(
        "--heatmaps",
        action="store_true",
        help="also draw the heatmaps by which images are compared, heatmaps.png",
    )
    parser.add_argument("--skip-broken", action="store_true", help="skip images that are damaged")
    add_model_arguments(parser)
    args = parser.parse_args(arguments)
    expression = argument_text(args.expression)
    if os.path.exists(expression):
        raise UsageError(
            f'the expression "{expression}" is a file; write hipie group EXPRESSION IMAGE IMAGE ...'
        )
    require_no_folder(args.images)
    files = ("group.json", "group.png", *(["heatmaps.png"] if args.heatmaps else []))
    folder = require_writable(args.output, files, args, args.images)
    segmenter = build_segmenter(args, task="group")
    images = readable_images(args.images, args.skip_broken, segmenter.cfg.INPUT.MAX_PIXELS)
    request = {"heatmaps": True} if args.heatmaps else {}
    results = segmenter.refer_group(images, expression, **request)
    entries = group_to_dicts(images, results)
    settings = make_settings("hipie group", args, expression=expression)
    write_json(folder / "group.json", {"settings": settings, "images": entries})
    print(write_drawing(folder / "group.png", draw_group(results, expression)))
    if args.heatmaps:
        print(write_drawing(folder / "heatmaps.png", draw_heatmaps(results, expression)))
    if not any(entry["shown"] for entry in entries):
        print(f'none of the images shows "{printable(expression)}"', file=sys.stderr)
    return 0
