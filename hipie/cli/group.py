"""`hipie group EXPRESSION IMAGE...`: segment one expression's object in several images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from hipie.cli.arguments import add_model_arguments, argument_text, build_segmenter
from hipie.cli.files import group_to_coco, readable_images, require_separate_output


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment a group of images, and write a contact sheet and a JSON file.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        0, the exit status.

    Raises:
        ValueError, OSError: for input that cannot be used, in one sentence.
    """
    from hipie.visualizer import draw_group

    parser = argparse.ArgumentParser(
        prog="hipie group",
        description="Segment the object that one expression describes in several images.",
    )
    parser.add_argument("expression")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--output", default="output", metavar="FOLDER")
    parser.add_argument("--skip-broken", action="store_true", help="skip images that are damaged")
    add_model_arguments(parser)
    args = parser.parse_args(arguments)
    expression = argument_text(args.expression)
    require_separate_output(args.images, args.output, "group")
    images = readable_images(args.images, args.skip_broken)
    results = build_segmenter(args, task="group").refer_group(images, expression)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    draw_group(results, expression).save(folder / "group.png")
    (folder / "group.json").write_text(json.dumps(group_to_coco(images, results), indent=1))
    print(folder / "group.png")
    return 0
