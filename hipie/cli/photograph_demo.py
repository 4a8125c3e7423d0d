"""The part of the demo that segments photographs: those of the package and of scikit-image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hipie import model_zoo
from hipie.cli.demo_files import DemoFiles
from hipie.data.image_io import read_image
from hipie.model_zoo.model_card import read_figures

if TYPE_CHECKING:
    from hipie.predictor import Segmenter

FOLDER = Path(__file__).parents[1] / "examples" / "photographs"
# Configurations whose packaged weights have seen photographs, if the package contains them.
PHOTO_CONFIG = "nano/hipie_nano_photos.yaml"
PHOTO_GROUP_CONFIG = "grser/grser_nano_photos.yaml"
UNTRAINED_NOTE = "these weights were not trained on photographs, expect poor results"
# Figures of the model card that are printed.
MAX_FIGURES = 8


@dataclass(frozen=True)
class Photograph:
    """A photograph and what is segmented in it.

    Attributes:
        name: of the file, or of scikit-image's function.
        things, stuff, parts: class names.
        expressions: referring expressions.
        is_packaged: whether the file is in the package; scikit-image's otherwise.
    """

    name: str
    things: tuple[str, ...]
    stuff: tuple[str, ...] = ()
    parts: Mapping[str, list[str]] = field(default_factory=dict)
    expressions: tuple[str, ...] = ()
    is_packaged: bool = True

    @property
    def is_available(self) -> bool:
        """Whether the photograph can be read."""
        return self.is_packaged or find_spec("skimage") is not None

    def read(self) -> NDArray[Any]:
        """Read the photograph: [H, W, 3] uint8 RGB."""
        if self.is_packaged:
            return read_image(FOLDER / f"{self.name}.jpg")
        from skimage import data

        return np.asarray(Image.fromarray(getattr(data, self.name)()).convert("RGB"))


ANIMALS = ("cat", "dog", "horse", "cow", "sheep", "person")
PHOTOGRAPHS = (
    Photograph("horses", ANIMALS, ("grass", "sky"), expressions=("the horse on the right",)),
    Photograph("cow", ANIMALS, ("grass", "tree"), expressions=("the largest cow",)),
    Photograph("dog", ANIMALS, ("grass", "tree")),
    Photograph("sheep", ANIMALS, ("grass",)),
    Photograph("kitten", ANIMALS),
    Photograph("cat", ANIMALS),
    Photograph("citrus", ("orange", "apple", "banana")),
    Photograph("astronaut", ("person",), parts={"person": ["hair", "skin"]}, is_packaged=False),
    Photograph("coffee", ("cup", "spoon", "dining table"), is_packaged=False),
    Photograph("chelsea", ANIMALS, is_packaged=False),
)
GROUP_EXPRESSION = "the cat"
GROUP = ("kitten", "cat", "chelsea", "dog", "sheep", "cow")


class PhotographDemo:
    """Segments photographs: things, stuff, parts, expressions and a group.

    Args:
        segmenter: a model with the tasks universal, parts and referring.
        files: where drawings and results go.
        group_segmenter: a model with the task group; by default the first one segments the group
            image by image.
        is_trained: whether the model was trained on photographs.
    """

    NAMES = (
        *(f"photo_{photograph.name}.png" for photograph in PHOTOGRAPHS),
        *(f"photo_{photo.name}_expressions.png" for photo in PHOTOGRAPHS if photo.expressions),
        "photo_group.png",
    )
    """Drawings that are written."""

    def __init__(
        self,
        segmenter: Segmenter,
        files: DemoFiles,
        group_segmenter: Segmenter | None = None,
        *,
        is_trained: bool = False,
    ) -> None:
        self.segmenter = segmenter
        self.files = files
        self.group_segmenter = group_segmenter
        self.is_trained = is_trained

    def run(self) -> None:
        """Segment every photograph that can be read, and the group."""
        images = {
            photograph.name: photograph.read()
            for photograph in PHOTOGRAPHS
            if photograph.is_available
        }
        for photograph in PHOTOGRAPHS:
            if photograph.name in images:
                self._segment(photograph, images[photograph.name])
            else:
                print(f"{photograph.name}: left out, since scikit-image is not installed")
        group = [images[name] for name in GROUP if name in images]
        segmenter = self.group_segmenter or self.segmenter
        results = segmenter.refer_group(group, GROUP_EXPRESSION)
        how = (
            "" if self.group_segmenter else ", image by image: this model always segments an object"
        )
        title = f'"{GROUP_EXPRESSION}" in {len(group)} photographs{how}'
        self.files.save_group("photo_group", results, GROUP_EXPRESSION, title)

    def _segment(self, photograph: Photograph, image: NDArray[Any]) -> None:
        names, parts = (photograph.things, photograph.stuff), dict(photograph.parts)
        result = self.segmenter.segment(image, *names, parts)
        kinds = [
            kind
            for kind, given in zip(("things", "stuff", "parts"), (*names, parts), strict=True)
            if given
        ]
        title = " and ".join([", ".join(kinds[:-1]), kinds[-1]] if kinds[1:] else kinds)
        note = "" if self.is_trained else f": {UNTRAINED_NOTE}"
        self.files.save(f"photo_{photograph.name}", result, f"{title}{note}")
        if photograph.expressions:
            result = self.segmenter.refer(image, list(photograph.expressions))
            title = f"referring expression{note}"
            self.files.save(f"photo_{photograph.name}_expressions", result, title)


def packaged_config(name: str) -> str | None:
    """Return the name of a configuration if the package contains it and its weights."""
    known = name in model_zoo.names()
    return name if known and model_zoo.get_weights(name) is not None else None


def describe_figures(config: str) -> str:
    """One line that says how good a model with packaged weights is, from its model card.

    Args:
        config: the configuration's name.
    """
    weights = model_zoo.get_weights(config)
    figures = read_figures(weights) if weights is not None else []
    name = Path(config).stem.replace("_", "-")
    if not figures:
        return f"{name}: its model card has no figures"
    shown = ", ".join(f"{figure.measure} {figure.value}" for figure in figures[:MAX_FIGURES])
    more = ", ..." if len(figures) > MAX_FIGURES else ""
    return f"{name}, by its model card: {shown}{more}"
