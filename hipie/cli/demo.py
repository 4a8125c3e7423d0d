"""`hipie demo --picture-book --output DIR`, or `--input IMAGE...`: several tasks in one run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hipie.cli.arguments import (
    DEFAULT_CONFIG,
    add_class_arguments,
    add_model_arguments,
    argument_text,
    build_segmenter,
    parse_names,
    parse_parts,
)
from hipie.cli.files import group_to_coco, readable_images
from hipie.data.picturebook import STUFF, THINGS, UNSEEN_THINGS, PictureBook
from hipie.data.picturebook.page import Page
from hipie.errors import UsageError
from hipie.visualizer import draw_group

if TYPE_CHECKING:
    from hipie.predictor import Segmenter
    from hipie.segmentation import Segmentation

# Seed of a picture book that no model was trained on.
SEED = 2026
PHOTO_NOTE = "These weights were not trained on photographs; expect poor results here."
# Photograph of scikit-image -> things, stuff.
PHOTOGRAPHS = {
    "coffee": (("cup", "spoon"), ("table",)),
    "chelsea": (("cat",), ("wall",)),
}


class PictureBookDemo:
    """Segments pages of the picture book and photographs, and writes drawings and results.

    Of a page's annotation only class names and expressions reach the model.

    Args:
        segmenter: a model with the tasks universal, parts and referring.
        folder: drawings and `results.json` are written there.
    """

    def __init__(self, segmenter: Segmenter, folder: Path) -> None:
        self.segmenter = segmenter
        self.folder = folder
        self.results: dict[str, dict[str, Any]] = {}
        self.things = [entry.name for entry in THINGS if entry.name not in UNSEEN_THINGS]
        self.stuff = [entry.name for entry in STUFF]
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Run every task and write `results.json`."""
        book = PictureBook(SEED, "val")
        pages = [book.page(i) for i in range(12)]
        by_number_of_things = sorted(pages, key=lambda page: -len(page.things))
        for number, page in enumerate(by_number_of_things[:3]):
            result = self.segmenter.segment(page.image, self.things, self.stuff)
            self._save(f"panoptic_{number}", result, "things and stuff")
        self._segment_parts(max(pages, key=lambda page: len(page.parts)))
        for number, page in enumerate(by_number_of_things[:2]):
            self._refer(f"sentence_{number}", page)
        self._segment_unseen_class()
        self._refer_group(book)
        self._segment_photographs()
        (self.folder / "results.json").write_text(json.dumps(self.results, indent=1))

    def _segment_parts(self, page: Page) -> None:
        present = {thing.name for thing in page.things}
        parts = {
            entry.name: [part.name for part in entry.parts]
            for entry in THINGS
            if entry.parts and entry.name in present
        }
        result = self.segmenter.segment(page.image, self.things, self.stuff, parts)
        self._save("parts", result, "parts of " + ", ".join(parts))

    def _refer(self, name: str, page: Page) -> None:
        """Segment the longest expression of a page that describes exactly one thing."""
        expressions = [
            entry.text for entry in page.expressions if entry.number == "one" and not entry.novel
        ]
        longest = max(expressions, key=len)
        self._save(name, self.segmenter.refer(page.image, longest), "referring expression")

    def _segment_unseen_class(self) -> None:
        """Segment a page with a class that was held out of training."""
        book = PictureBook(SEED, "unseen")
        page = _first(book.page, lambda page: any(t.name in UNSEEN_THINGS for t in page.things))
        names = sorted({thing.name for thing in page.things} & UNSEEN_THINGS)
        result = self.segmenter.segment(page.image, [*self.things, *names], self.stuff)
        self._save("unseen_word", result, f'"{names[0]}" is not in the training vocabulary')

    def _refer_group(self, book: PictureBook) -> None:
        group = book.group(0)
        images = [page.image for page in group.pages]
        results = self.segmenter.refer_group(images, group.text)
        draw_group(results, group.text).save(self.folder / "group.png")
        self.results["group"] = {
            "title": f'"{group.text}", image by image: this model always segments an object',
            "segments": [result.to_coco() for result in results],
        }

    def _segment_photographs(self) -> None:
        from skimage import data

        for name, (things, stuff) in PHOTOGRAPHS.items():
            image = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
            self._save(f"photo_{name}", self.segmenter.segment(image, things, stuff), PHOTO_NOTE)

    def _save(self, name: str, result: Segmentation, title: str) -> None:
        result.save(self.folder / f"{name}.png", title)
        self.results[name] = {"title": title, "segments": result.to_coco()}
        print(f"{name}.png: {title}: {', '.join(result.labels) or 'no segment'}", flush=True)


def main(arguments: Sequence[str] | None = None, program: str = "hipie demo") -> int:
    """Write a drawing an image, and results.json, into the output folder.

    Args:
        arguments: the command line; by default that of the process.
        program: name of the program, for its help.

    Returns:
        0, the exit status.

    Raises:
        ValueError, OSError: for input that cannot be used, in one sentence; results of the images
            before it are in results.json.
    """
    args = _parser(program).parse_args(arguments)
    things, stuff = parse_names(args.things), parse_names(args.stuff)
    parts = parse_parts(args.parts)
    expressions = [argument_text(expression) for expression in args.expression]
    if not (things or stuff or parts or expressions or args.picture_book):
        raise UsageError("nothing to segment: give --things, --stuff, --parts or --expression")
    segmenter = build_segmenter(args)
    folder = Path(args.output)
    if args.picture_book:
        PictureBookDemo(segmenter, folder).run()
        print(f"drawings and results.json are in {folder}")
        return 0
    images = readable_images(args.input, args.skip_broken)
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    is_group = len(images) > 1
    # For a model with the task "group" the results of single images would only repeat the group's.
    refer_singly = expressions and not (is_group and "group" in segmenter.model.tasks)
    try:
        for name in images:
            stem, image_results = Path(name).stem, results.setdefault(name, {})
            if things or stuff or parts or refer_singly:
                segmenter.set_image(name)
            if things or stuff or parts:
                result = segmenter.segment(None, things, stuff, parts)
                result.save(folder / f"{stem}_segments.png", stem)
                image_results["segments"] = result.to_coco()
            if refer_singly:
                result = segmenter.refer(None, expressions)
                result.save(folder / f"{stem}_expressions.png", stem)
                image_results["expressions"] = result.to_coco()
        for number, expression in enumerate(expressions if is_group else ()):
            group = segmenter.refer_group(images, expression)
            draw_group(group, expression).save(folder / f"group_{number}.png")
            for converted in group_to_coco(images, group):
                by_expression = results[converted.pop("file")].setdefault("group", {})
                by_expression[expression] = converted
    finally:
        (folder / "results.json").write_text(json.dumps(results, indent=1))
    print(f"{len(results)} image(s) segmented; drawings and results.json are in {folder}")
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description='Segment images by class names (separated by ";", synonyms by ",") and '
        "expressions. Several images with one expression are also drawn on one sheet.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", default=[], metavar="IMAGE")
    source.add_argument(
        "--picture-book",
        action="store_true",
        help="generated pages and two photographs, with class names and expressions of their own",
    )
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--skip-broken", action="store_true", help="skip images that are damaged")
    parser.add_argument("--expression", action="append", default=[], metavar="TEXT")
    add_class_arguments(parser)
    add_model_arguments(parser, DEFAULT_CONFIG)
    return parser


def _first(page: Callable[[int], Page], condition: Callable[[Page], bool]) -> Page:
    """Return the first page that meets a condition."""
    number = 0
    while not condition(page(number)):
        number += 1
    return page(number)
