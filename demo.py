#!/usr/bin/env python
"""Segment images by words from the command line.

    python demo.py --config-file configs/nano/hipie_nano_picturebook.yaml --input page.jpg \\
        --things "car; dog, puppy" --stuff "grass; sky" --parts "car: wheel, window" --output out
    python demo.py --picture-book --output out
    python demo.py --config-file ... --input page.jpg --expression "the red car" --output out

Classes are separated by ";", synonyms by ",". Several inputs with one expression are also drawn on
one sheet; for a model that looks at them together, on that alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from hipie import Segmenter
from hipie.cli.demo import Demonstration
from hipie.cli.main import (
    add_vocabulary_arguments,
    group_answers,
    parse_names,
    parse_parts,
    readable,
)
from hipie.visualizer import draw_group

DEFAULT_CONFIG = "nano/hipie_nano_picturebook.yaml"


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """The command line; see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", default=DEFAULT_CONFIG, metavar="FILE_OR_NAME")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", default=[], metavar="IMAGE")
    source.add_argument(
        "--picture-book",
        action="store_true",
        help="pages drawn now, and two photographs, with vocabularies of their own",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument(
        "--skip-broken", action="store_true", help="go on without images that cannot be read"
    )
    parser.add_argument("--expression", action="append", default=[], metavar="TEXT")
    add_vocabulary_arguments(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Write a drawing an image, and results.json, into the output folder."""
    args = parse_arguments(arguments)
    try:
        run(args)
    except (ValueError, OSError) as error:
        sys.exit(f"demo.py: {error}")


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks for.

    Raises:
        ValueError, OSError: naming what is wrong; images that were done are in results.json.
    """
    words = parse_names(args.things), parse_names(args.stuff), parse_parts(args.parts)
    if not (any(words) or args.expression or args.picture_book):
        sys.exit("demo.py: say what to look for: --things, --stuff, --parts or --expression")
    segmenter = Segmenter.from_config(args.config_file, args.weights, args.device, args.opts)
    folder = Path(args.output)
    if args.picture_book:
        Demonstration(segmenter, folder).run()
        print(f"drawings and results.json are in {folder}")
        return
    images = readable(args.input, args.skip_broken)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    together = len(images) > 1
    # A model of groups says nothing about an image by itself that it would not say about all.
    alone = args.expression and not (together and "group" in segmenter.model.tasks)
    try:
        for name in images:
            stem = Path(name).stem
            answers = results.setdefault(name, {})
            if any(words):
                found = segmenter.segment(name, *words)
                found.save(folder / f"{stem}_segments.png", stem)
                answers["segments"] = found.to_coco()
            if alone:
                found = segmenter.refer(name, args.expression)
                found.save(folder / f"{stem}_sentences.png", stem)
                answers["sentences"] = found.to_coco()
        for number, sentence in enumerate(args.expression if together else ()):
            group = segmenter.refer_group(images, sentence)
            draw_group(group, sentence).save(folder / f"group_{number}.png")
            for answer in group_answers(images, group):
                results[answer.pop("file")].setdefault("group", {})[sentence] = answer
    finally:
        (folder / "results.json").write_text(json.dumps(results, indent=1))
    print(f"{len(results)} image(s) segmented; drawings and results.json are in {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
