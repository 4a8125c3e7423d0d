r"""Masks from image tags against label maps: mIoU before and after refinement, and of random tags.

The tags of an image are the classes in its label map. As control, every image gets as many classes
at random. No training.

    python benchmarks/tag_masks.py --images datasets/photographs/voc/images/val \
        --label-maps datasets/photographs/voc/semantic/val \
        --class-names datasets/photographs/voc/classes.txt
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie.cli.data_from_tags import match_all
from hipie.data.datasets.class_names_file import read_class_names
from hipie.data.image_io import IMAGE_SUFFIXES, read_image, read_label_map, resized_shape
from hipie.data.records import sample_evenly
from hipie.data.tag_masks import label_map
from hipie.errors import InputError
from hipie.modeling.class_activation import SCALES, ClassActivation

CLASSES = ("cat", "dog", "horse", "cow", "sheep", "person")
# ImageNet has no class for a person; these are people, and clothes that most people wear.
PERSON = "person: ballplayer, groom, scuba diver, jean, jersey, suit, sweatshirt"
IGNORED = 255


def main() -> None:
    """Print one table of IoU in percent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, metavar="FOLDER")
    parser.add_argument("--label-maps", required=True, metavar="FOLDER")
    parser.add_argument("--class-names", required=True, metavar="FILE")
    parser.add_argument("--classes", default=PERSON)
    parser.add_argument("--classifier", default="tf_efficientnet_lite2")
    parser.add_argument("--weights", default="package")
    parser.add_argument("--text-encoder", default="minilm")
    parser.add_argument("--min-similarity", type=float, default=0.5)
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--backgrounds", type=float, nargs="+", default=[0.3])
    parser.add_argument("--refinements", nargs="+", default=["none", "pamr"])
    parser.add_argument("--size", type=int, default=0, help="of the longer side; 0 = as it is")
    parser.add_argument("--count", type=int, help="of images, evenly spaced")
    parser.add_argument("--seed", type=int, default=0, help="of the random tags")
    options = parser.parse_args()

    values = [read_class_names(options.class_names).index(name) for name in CLASSES]
    activation = ClassActivation.from_timm(options.classifier, options.weights)
    indices = [
        [one.index for one in matched] for matched in match_all(options, CLASSES, activation)
    ]
    generator = random.Random(options.seed)
    settings = [(r, b) for r in options.refinements for b in options.backgrounds]
    rows = [("tags", *setting) for setting in settings]
    rows += [("random tags", options.refinements[0], b) for b in options.backgrounds]
    counts = {row: Counts() for row in rows}
    names = sorted(p.name for p in Path(options.label_maps).iterdir() if p.suffix == ".png")
    for name in sample_evenly(names, options.count):
        image, labels = read_pair(options, name)
        tags = [place for place, value in enumerate(values) if (labels == value).any()]
        if not tags:
            continue
        drawn = sorted(generator.sample(range(len(CLASSES)), len(tags)))
        features = activation.encode(image, options.scales)
        maps = {
            kind: (own, activation.maps(features, [indices[t] for t in own], image.shape[:2]))
            for kind, own in (("tags", tags), ("random tags", drawn))
        }
        for row in rows:
            counts[row].add(labels, values, image, *maps[row[0]], row[2], row[1])
    print("| tags | refinement | background | mIoU | " + " | ".join(CLASSES) + " |")
    print("|---" * (4 + len(CLASSES)) + "|")
    for row in rows:
        ious = counts[row].ious()
        figures = " | ".join(f"{value:.1f}" for value in (ious.mean(), *ious))
        print(f"| {row[0]} | {row[1]} | {row[2]} | {figures} |")
    print(f"\n{counts[rows[0]].images} images, {options.classifier}")


class Counts:
    """Pixels of intersections and unions over a data set."""

    def __init__(self) -> None:
        self.images = 0
        self.intersections = np.zeros(len(CLASSES), np.int64)
        self.unions = np.zeros(len(CLASSES), np.int64)

    def add(
        self,
        labels: NDArray[np.int64],
        values: Sequence[int],
        image: NDArray[np.uint8],
        tags: Sequence[int],
        maps: Tensor,
        background: float,
        refinement: str,
    ) -> None:
        """Compare the masks of an image with its label map."""
        self.images += 1
        places = label_map(image, maps, background, refinement)
        counted = labels != IGNORED
        for place, value in enumerate(values):
            own = places == tags.index(place) if place in tags else np.zeros_like(counted)
            truth = labels == value
            self.intersections[place] += (own & truth & counted).sum()
            self.unions[place] += ((own | truth) & counted).sum()

    def ious(self) -> NDArray[np.float64]:
        """IoU of every class in percent."""
        return 100 * self.intersections / np.maximum(self.unions, 1)


def read_pair(
    options: argparse.Namespace, name: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read an image and its label map, both in the size of the option."""
    labels = Image.fromarray(read_label_map(Path(options.label_maps) / name).astype(np.uint8))
    paths = [Path(options.images) / f"{Path(name).stem}{suffix}" for suffix in IMAGE_SUFFIXES]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(f"{options.images} has no image for the label map {name}")
    image = Image.fromarray(read_image(path))
    if options.size:
        height, width = resized_shape(image.height, image.width, options.size, options.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        labels = labels.resize((width, height), Image.Resampling.NEAREST)
    return np.array(image), np.asarray(labels).astype(np.int64)


if __name__ == "__main__":
    main()
