"""What the tabs share: models, worker, files and example images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hipie.app.downloads import Downloads
from hipie.app.models import ModelPool
from hipie.app.requests import Requests
from hipie.app.work import Worker

# Pages of the picture book that are drawn as example images.
PAGES = 3
PAGE_SEED = 7
# Packaged models that were trained on photographs, and on pages.
PHOTO_MODEL, PAGE_MODEL = "hipie-nano-photos", "hipie-nano-picturebook"
ANIMALS = ("cat", "dog", "horse", "cow", "sheep")
PHOTOGRAPHS_FOLDER = Path(__file__).parents[1] / "examples/photographs"
# Packaged photographs: stuff and expressions.
PHOTOGRAPHS = {
    "horses": (("grass", "sky"), ("the horse on the right",)),
    "dog": (("grass",), ("the dog",)),
    "cow": (("grass", "tree"), ("the largest cow",)),
    "kitten": ((), ("the kitten",)),
}


@dataclass(frozen=True)
class ExampleImage:
    """An image with what may be segmented in it.

    Attributes:
        file: its name.
        title: what the button says.
        model: name of the model for such images.
        things, stuff, parts: entries in the form of the command line.
        expressions: referring expressions.
    """

    file: str
    title: str
    model: str
    things: tuple[str, ...]
    stuff: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()


@dataclass
class Context:
    """Parts of the page that outlive a request.

    Attributes:
        pool: the models.
        requests: calls of them.
        worker: runs the calls.
        downloads: files of results.
        text_models: names of the models for class names and expressions.
        group_model: name of the one that the tab Group begins with.
        click_model: name of a model with prompts; "" without one.
        example_model: name of a few-shot model; "" without one.
        advice: how a missing model is given, by the name of the attribute.
        examples: images that are offered.
        watch: called by a tab with a component whose change names a model to load.
    """

    pool: ModelPool
    requests: Requests
    worker: Worker
    downloads: Downloads
    text_models: list[str]
    group_model: str
    click_model: str = ""
    example_model: str = ""
    advice: dict[str, str] = field(default_factory=dict)
    examples: list[ExampleImage] = field(default_factory=list)
    watch: Callable[[Any], None] = lambda component: None

    def model_for(self, example: ExampleImage) -> str:
        """Return the model that an example is segmented with.

        It is the one for such images, if the page offers it and begins with a packaged model; else
        the one that the page begins with.
        """
        first = self.text_models[0]
        is_packaged = first in (PHOTO_MODEL, PAGE_MODEL)
        return example.model if is_packaged and example.model in self.text_models else first


def draw_examples(folder: Path) -> list[ExampleImage]:
    """Copy packaged photographs, and draw pages of the picture book.

    Args:
        folder: for the files.
    """
    from PIL import Image

    from hipie.data.picturebook import PictureBook

    examples = []
    for name, (stuff, phrases) in PHOTOGRAPHS.items():
        file = shutil.copy(PHOTOGRAPHS_FOLDER / f"{name}.jpg", folder)
        examples.append(ExampleImage(str(file), name, PHOTO_MODEL, ANIMALS, stuff, (), phrases))
    book = PictureBook(PAGE_SEED, "val")
    for number in range(PAGES):
        page = book.page(number)
        file = folder / f"page_{number + 1}.png"
        Image.fromarray(page.image).save(file)
        things = tuple(dict.fromkeys(segment.name for segment in page.things))
        stuff = tuple(dict.fromkeys(s.name for s in page.segments if s.name not in things))
        whole_of = {thing.id: thing.name for thing in page.things}
        part_names: dict[str, dict[str, None]] = {}
        for part in page.parts:
            if part.level == 1:
                whole = whole_of[part.thing_id]
                # Its label has the whole's name again.
                part_names.setdefault(whole, {})[part.name.removeprefix(f"{whole} ")] = None
        parts = tuple(f"{whole}: {', '.join(names)}" for whole, names in part_names.items())
        expressions = tuple(dict.fromkeys(entry.text for entry in page.expressions))[:2]
        title = f"page, {' and '.join(things[:2])}"
        examples.append(
            ExampleImage(str(file), title, PAGE_MODEL, things, stuff, parts[:2], expressions)
        )
    return examples
