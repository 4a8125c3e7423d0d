"""`hipie demo --examples --output DIR`, or `--input IMAGE...`: several tasks in one run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.cli.arguments import (
    add_class_arguments,
    add_model_arguments,
    argument_text,
    build_segmenter,
    parse_names,
    parse_parts,
)
from hipie.cli.demo_files import DemoFiles
from hipie.cli.files import (
    add_output_arguments,
    make_settings,
    readable_images,
    report_if_empty,
    report_no_segment,
    require_no_folder,
    require_writable,
    unique_stems,
)
from hipie.cli.photograph_demo import (
    PHOTO_CONFIG,
    PHOTO_GROUP_CONFIG,
    PhotographDemo,
    describe_figures,
    packaged_config,
)
from hipie.data.picturebook import STUFF, THINGS, UNSEEN_THINGS, PictureBook
from hipie.data.picturebook.page import Page
from hipie.errors import UsageError
from hipie.result_files import write_drawing, write_json
from hipie.segmentation import group_to_dicts
from hipie.visualizer import draw_group

if TYPE_CHECKING:
    from hipie.predictor import Segmenter

# Seed of a picture book that no model was trained on, and the configuration of those that were.
SEED = 2026
PICTURE_BOOK_CONFIG = "nano/hipie_nano_picturebook.yaml"


class PictureBookDemo:
    """Segments pages of the picture book.

    Of a page's annotation only class names and expressions reach the model.

    Args:
        segmenter: a model with the tasks universal, parts and referring.
        files: where drawings and results go.
    """

    NAMES = (
        *(f"panoptic_{number}.png" for number in range(3)),
        *("parts.png", "sentence_0.png", "sentence_1.png", "unseen_word.png", "group.png"),
    )
    """Drawings that are written."""

    def __init__(self, segmenter: Segmenter, files: DemoFiles) -> None:
        self.segmenter = segmenter
        self.files = files
        self.things = [entry.name for entry in THINGS if entry.name not in UNSEEN_THINGS]
        self.stuff = [entry.name for entry in STUFF]

    def run(self) -> None:
        """Run every task."""
        book = PictureBook(SEED, "val")
        pages = [book.page(i) for i in range(12)]
        by_number_of_things = sorted(pages, key=lambda page: -len(page.things))
        for number, page in enumerate(by_number_of_things[:3]):
            result = self.segmenter.segment(page.image, self.things, self.stuff)
            self.files.save(f"panoptic_{number}", result, "things and stuff")
        self._segment_parts(max(pages, key=lambda page: len(page.parts)))
        for number, page in enumerate(by_number_of_things[:2]):
            self._refer(f"sentence_{number}", page)
        self._segment_unseen_class()
        self._refer_group(book)

    def _segment_parts(self, page: Page) -> None:
        present = {thing.name for thing in page.things}
        parts = {
            entry.name: [part.name for part in entry.parts]
            for entry in THINGS
            if entry.parts and entry.name in present
        }
        result = self.segmenter.segment(page.image, self.things, self.stuff, parts)
        self.files.save("parts", result, "parts of " + ", ".join(parts))

    def _refer(self, name: str, page: Page) -> None:
        """Segment the longest expression of a page that describes exactly one thing."""
        expressions = [
            entry.text for entry in page.expressions if entry.number == "one" and not entry.novel
        ]
        longest = max(expressions, key=len)
        self.files.save(name, self.segmenter.refer(page.image, longest), "referring expression")

    def _segment_unseen_class(self) -> None:
        """Segment a page with a class that was held out of training."""
        book = PictureBook(SEED, "unseen")
        page = _first(book.page, lambda page: any(t.name in UNSEEN_THINGS for t in page.things))
        names = sorted({thing.name for thing in page.things} & UNSEEN_THINGS)
        result = self.segmenter.segment(page.image, [*self.things, *names], self.stuff)
        self.files.save("unseen_word", result, f'"{names[0]}" is not in the training vocabulary')

    def _refer_group(self, book: PictureBook) -> None:
        group = book.group(0)
        images = [page.image for page in group.pages]
        results = self.segmenter.refer_group(images, group.text)
        title = f'"{group.text}", image by image: this model always segments an object'
        self.files.save_group("group", results, group.text, title)


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
    examples = args.examples or args.picture_book
    if not (things or stuff or parts or expressions or examples):
        raise UsageError("nothing to segment: give --things, --stuff, --parts or --expression")
    if examples:
        _run_examples(args)
        return 0
    run = _Run(args, things, stuff, parts, expressions)
    require_no_folder(args.input)
    folder = require_writable(args.output, run.names(), args, args.input)
    run.segment_images(build_segmenter(args), folder)
    print(f"{len(run.results)} image(s) segmented; drawings and results.json are in {folder}")
    return 0


def _run_examples(args: argparse.Namespace) -> None:
    """Segment the photographs with `--examples`, then pages of the picture book.

    Without a model in the arguments photographs are segmented by the packaged model that was
    trained on photographs, if there is one, and pages by that of the picture book.
    """
    names = PictureBookDemo.NAMES
    if args.examples:
        names = (*PhotographDemo.NAMES, *names)
    folder = require_writable(args.output, (*names, "results.json"), args, ())
    is_default = not (args.model or args.config_file or args.weights)
    photo_config = packaged_config(PHOTO_CONFIG) if is_default else None
    group_config = packaged_config(PHOTO_GROUP_CONFIG) if is_default else None
    segmenter = _build(args, PICTURE_BOOK_CONFIG if is_default else None) or build_segmenter(args)
    files = DemoFiles(folder, make_settings("hipie demo", args))
    try:
        if args.examples:
            photo_segmenter = _build(args, photo_config) or segmenter
            if photo_config:
                print(describe_figures(photo_config), flush=True)
                files.settings["photographs"] = photo_config
            PhotographDemo(
                photo_segmenter,
                files,
                _build(args, group_config),
                is_trained=bool(photo_config) or not is_default,
            ).run()
        PictureBookDemo(segmenter, files).run()
    finally:
        files.write_results()
    print(f"drawings and results.json are in {folder}")


def _build(args: argparse.Namespace, config: str | None) -> Segmenter | None:
    """Build a model with packaged weights on the device of the arguments; None for None."""
    if config is None:
        return None
    chosen = argparse.Namespace(**vars(args))
    chosen.config_file = config
    return build_segmenter(chosen)


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
        images = readable_images(
            self.args.input, self.args.skip_broken, segmenter.cfg.INPUT.MAX_PIXELS
        )
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
    source.add_argument(
        "--input", nargs="+", default=[], metavar="IMAGE", help="files of images to segment"
    )
    source.add_argument(
        "--examples",
        action="store_true",
        help="photographs, then generated pages, with class names and expressions of their own",
    )
    source.add_argument("--picture-book", action="store_true", help="the generated pages alone")
    add_output_arguments(parser, default=None)
    parser.add_argument("--skip-broken", action="store_true", help="skip images that are damaged")
    parser.add_argument(
        "--expression",
        action="append",
        default=[],
        metavar="TEXT",
        help="segment what it describes, too; can be repeated",
    )
    add_class_arguments(parser)
    add_model_arguments(parser)
    return parser


def _first(page: Callable[[int], Page], condition: Callable[[Page], bool]) -> Page:
    """Return the first page that meets a condition."""
    number = 0
    while not condition(page(number)):
        number += 1
    return page(number)
