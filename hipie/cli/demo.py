"""`hipie demo --picture-book --output DIR`, or `--input IMAGE...`: several tasks in one run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hipie.cli.arguments import (
    add_class_arguments,
    add_model_arguments,
    argument_text,
    build_segmenter,
    parse_names,
    parse_parts,
)
from hipie.cli.files import (
    add_output_arguments,
    group_to_dicts,
    make_settings,
    readable_images,
    report_if_empty,
    report_no_segment,
    require_no_folder,
    require_writable,
    unique_stems,
)
from hipie.data.picturebook import STUFF, THINGS, UNSEEN_THINGS, PictureBook
from hipie.data.picturebook.page import Page
from hipie.errors import UsageError, printable
from hipie.result_files import write_drawing, write_json
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
        settings: of the run, for `results.json`.
    """

    NAMES = (
        *(f"panoptic_{number}.png" for number in range(3)),
        *("parts.png", "sentence_0.png", "sentence_1.png", "unseen_word.png", "group.png"),
        *(f"photo_{name}.png" for name in PHOTOGRAPHS),
        "results.json",
    )
    """Files that are written."""

    def __init__(
        self, segmenter: Segmenter, folder: Path, settings: dict[str, Any] | None = None
    ) -> None:
        self.segmenter = segmenter
        self.folder = folder
        self.settings = settings or {"program": "hipie demo"}
        self.results: list[dict[str, Any]] = []
        self.things = [entry.name for entry in THINGS if entry.name not in UNSEEN_THINGS]
        self.stuff = [entry.name for entry in STUFF]

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
        content = {"settings": self.settings, "images": self.results}
        write_json(self.folder / "results.json", content)

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
        write_drawing(self.folder / "group.png", draw_group(results, group.text))
        title = f'"{group.text}", image by image: this model always segments an object'
        converted = [result.to_dict() for result in results]
        for entry in converted:
            del entry["settings"]
        self.results.append({"name": "group", "title": title, "images": converted})

    def _segment_photographs(self) -> None:
        from skimage import data

        for name, (things, stuff) in PHOTOGRAPHS.items():
            image = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
            self._save(f"photo_{name}", self.segmenter.segment(image, things, stuff), PHOTO_NOTE)

    def _save(self, name: str, result: Segmentation, title: str) -> None:
        result.save(self.folder / f"{name}.png", title, overwrite=True)
        converted = result.to_dict()
        del converted["settings"]
        self.results.append({"name": name, "title": title, **converted})
        print(
            f"{name}.png: {title}: {', '.join(map(printable, result.labels)) or 'no segment'}",
            flush=True,
        )


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
    if args.picture_book:
        folder = require_writable(args.output, PictureBookDemo.NAMES, args, ())
        demo = PictureBookDemo(build_segmenter(args), folder, make_settings("hipie demo", args))
        demo.run()
        print(f"drawings and results.json are in {folder}")
        return 0
    run = _Run(args, things, stuff, parts, expressions)
    require_no_folder(args.input)
    folder = require_writable(args.output, run.names(), args, args.input)
    run.segment_images(build_segmenter(args), folder)
    print(f"{len(run.results)} image(s) segmented; drawings and results.json are in {folder}")
    return 0


class _Run:
    """Segmentation of the images of a command line.

    Args:
        args: the command line.
        things, stuff, parts: class names.
        expressions: referring expressions.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        things: list[tuple[str, ...]],
        stuff: list[tuple[str, ...]],
        parts: dict[str, list[str]],
        expressions: list[str],
    ) -> None:
        self.args = args
        self.things, self.stuff, self.parts = things, stuff, parts
        self.expressions = expressions
        self.stems = dict(zip(args.input, unique_stems(args.input), strict=True))
        self.results: dict[str, dict[str, Any]] = {}

    def names(self) -> list[str]:
        """Names of all files that may be written."""
        stems = self.stems.values()
        names = [f"{stem}_{kind}.png" for stem in stems for kind in ("segments", "expressions")]
        groups = len(self.expressions) if len(self.stems) > 1 else 0
        return [*names, *(f"group_{number}.png" for number in range(groups)), "results.json"]

    def segment_images(self, segmenter: Segmenter, folder: Path) -> None:
        """Segment every image, and the group; results so far are written in any case."""
        images = readable_images(self.args.input, self.args.skip_broken)
        is_group = len(images) > 1
        # For a model with the task "group" single images would only repeat the group's results.
        refer_singly = bool(self.expressions) and not (
            is_group and "group" in segmenter.model.tasks
        )
        try:
            for image in images:
                self._segment_image(segmenter, image, folder, refer_singly)
            for number, expression in enumerate(self.expressions if is_group else ()):
                group = segmenter.refer_group(images, expression)
                write_drawing(folder / f"group_{number}.png", draw_group(group, expression))
                for entry in group_to_dicts(images, group):
                    result = self.results[entry["image"]["file"]]
                    result.setdefault("image", entry.pop("image"))
                    result.setdefault("group", {})[expression] = entry
        finally:
            requested = {
                "things": self.things,
                "stuff": self.stuff,
                "parts": self.parts,
                "expressions": self.expressions,
            }
            settings = make_settings("hipie demo", self.args, **requested)
            content = {"settings": settings, "images": list(self.results.values())}
            write_json(folder / "results.json", content)

    def _segment_image(
        self, segmenter: Segmenter, image: str, folder: Path, refer_singly: bool
    ) -> None:
        stem, entry = self.stems[image], self.results.setdefault(image, {})
        has_classes = bool(self.things or self.stuff or self.parts)
        if has_classes or refer_singly:
            segmenter.set_image(image)
        if has_classes:
            result = segmenter.segment(things=self.things, stuff=self.stuff, parts=self.parts)
            result.save(folder / f"{stem}_segments.png", stem, overwrite=True)
            if not len(result):
                best = segmenter.best_score(things=self.things, stuff=self.stuff, parts=self.parts)
                report_no_segment(image, best)
            converted = result.to_dict()
            entry["image"] = converted["image"] | {"file": image}
            entry["segments"] = converted["segments"]
        if refer_singly:
            result = segmenter.refer(expressions=self.expressions)
            result.save(folder / f"{stem}_expressions.png", stem, overwrite=True)
            report_if_empty(image, result)
            converted = result.to_dict()
            entry.setdefault("image", converted["image"] | {"file": image})
            entry["expressions"] = converted["segments"]


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
    add_output_arguments(parser, default=None)
    parser.add_argument("--skip-broken", action="store_true", help="skip images that are damaged")
    parser.add_argument("--expression", action="append", default=[], metavar="TEXT")
    add_class_arguments(parser)
    add_model_arguments(parser)
    return parser


def _first(page: Callable[[int], Page], condition: Callable[[Page], bool]) -> Page:
    """Return the first page that meets a condition."""
    number = 0
    while not condition(page(number)):
        number += 1
    return page(number)
