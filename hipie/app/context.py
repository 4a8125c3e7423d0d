"""What the tabs share: models, worker, files and example images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hipie.app.downloads import Downloads
from hipie.app.models import ModelPool
from hipie.app.requests import Requests
from hipie.app.work import Worker

# Pages of the picture book that are drawn as example images.
PAGES = 4
PAGE_SEED = 7


@dataclass(frozen=True)
class ExampleImage:
    """An image with what may be segmented in it.

    Attributes:
        file: its name.
        things, stuff, parts: entries in the form of the command line.
        expressions: referring expressions.
    """

    file: str
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


def draw_examples(folder: Path) -> list[ExampleImage]:
    """Draw pages of the picture book, and add the packaged photographs.

    Args:
        folder: for the pages.
    """
    from PIL import Image

    import hipie
    from hipie.data.picturebook import PictureBook

    examples = []
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
        examples.append(ExampleImage(str(file), things, stuff, parts[:2], expressions))
    photographs = Path(hipie.__file__).parent / "examples/photographs"
    for name, things, stuff in (("dog", ("dog",), ("grass",)), ("cat", ("cat",), ())):
        file = photographs / f"{name}.jpg"
        if file.is_file():
            examples.append(ExampleImage(str(file), things, stuff, (), (f"the {name}",)))
    return examples
