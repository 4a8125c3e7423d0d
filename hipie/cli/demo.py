"""What `make demo` shows: the weights of the package on pages and photographs they never saw.

Nothing of a page's annotation reaches the model but its vocabulary and the expressions asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hipie.data.picturebook import STUFF, THINGS, UNSEEN_THINGS, PictureBook
from hipie.data.picturebook.page import Page
from hipie.predictor import Segmenter
from hipie.segmentation import Segmentation
from hipie.visualizer import draw_group

# A book of its own: no page of it was ever trained on.
SEED = 2026
PHOTO_NOTE = "These weights have never seen a photograph; what they make of one is a curiosity."
PHOTOGRAPHS = {
    "coffee": (("cup", "spoon"), ("table",)),
    "chelsea": (("cat",), ("wall",)),
}


class Demonstration:
    """Segments one thing after another, and keeps drawings and results in a folder.

    Args:
        segmenter: a model with the tasks universal, parts and referring.
        folder: where drawings and `results.json` go.
    """

    def __init__(self, segmenter: Segmenter, folder: Path) -> None:
        self.segmenter = segmenter
        self.folder = folder
        self.results: dict[str, dict[str, Any]] = {}
        self.things = [one.name for one in THINGS if one.name not in UNSEEN_THINGS]
        self.stuff = [one.name for one in STUFF]
        folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Everything, in order."""
        book = PictureBook(SEED, "val")
        pages = [book.page(i) for i in range(12)]
        crowded = sorted(pages, key=lambda page: -len(page.things))
        for number, page in enumerate(crowded[:3]):
            found = self.segmenter.segment(page.image, self.things, self.stuff)
            self._keep(f"panoptic_{number}", found, "things and stuff")
        self._parts(max(pages, key=lambda page: len(page.parts)))
        for number, page in enumerate(crowded[:2]):
            self._expression(f"sentence_{number}", page)
        self._unseen()
        self._group(book)
        self._photographs()
        (self.folder / "results.json").write_text(json.dumps(self.results, indent=1))

    def _parts(self, page: Page) -> None:
        present = {thing.name for thing in page.things}
        parts = {
            one.name: [part.name for part in one.parts]
            for one in THINGS
            if one.parts and one.name in present
        }
        found = self.segmenter.segment(page.image, self.things, self.stuff, parts)
        self._keep("parts", found, "parts of " + ", ".join(parts))

    def _expression(self, name: str, page: Page) -> None:
        usable = [one.text for one in page.expressions if one.number == "one" and not one.novel]
        expression = max(usable, key=len)
        self._keep(name, self.segmenter.refer(page.image, expression), "an expression")

    def _unseen(self) -> None:
        """A page with a thing whose name and shape were kept out of training."""
        book = PictureBook(SEED, "unseen")
        page = _first(book.page, lambda page: any(t.name in UNSEEN_THINGS for t in page.things))
        names = sorted({thing.name for thing in page.things} & UNSEEN_THINGS)
        found = self.segmenter.segment(page.image, [*self.things, *names], self.stuff)
        self._keep("unseen_word", found, f'"{names[0]}" is a word never trained on')

    def _group(self, book: PictureBook) -> None:
        group = book.group(0)
        images = [page.image for page in group.pages]
        found = self.segmenter.refer_group(images, group.text)
        draw_group(found, group.text).save(self.folder / "group.png")
        self.results["group"] = {
            "title": f'"{group.text}", page by page: this model always points at something',
            "segments": [one.to_coco() for one in found],
        }

    def _photographs(self) -> None:
        from skimage import data

        for name, (things, stuff) in PHOTOGRAPHS.items():
            image = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
            self._keep(f"photo_{name}", self.segmenter.segment(image, things, stuff), PHOTO_NOTE)

    def _keep(self, name: str, found: Segmentation, title: str) -> None:
        found.save(self.folder / f"{name}.png", title)
        self.results[name] = {"title": title, "segments": found.to_coco()}
        print(f"{name}.png: {title}: {', '.join(found.labels) or 'nothing found'}", flush=True)


def _first(page: Callable[[int], Page], wanted: Callable[[Page], bool]) -> Page:
    """The first page that has what is wanted."""
    number = 0
    while not wanted(page(number)):
        number += 1
    return page(number)
