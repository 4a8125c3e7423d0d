"""Drawing of a data set; the command is `hipie data show DATASET --output DIR`.

Contact sheets: images with the masks and labels of their objects, stuff and parts, or with
the expressions and the numbers of their target objects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data.catalog import Metadata
from numpy.typing import NDArray
from PIL import Image

from hipie.data.annotation_view import AnnotationView, read_annotation
from hipie.data.broken_images import READING_RULES
from hipie.data.build import MappedDataset
from hipie.data.io.reading_rules import read_by
from hipie.data.records import sample_evenly
from hipie.result_files import require_replaceable, write_drawing
from hipie.segmentation import Segment, Segmentation
from hipie.visualizer import contact_sheet, draw_group, draw_segments

IMAGES_PER_SHEET = 4
MAX_EXPRESSIONS = 12


def draw_annotation(view: AnnotationView, title: str) -> Image.Image:
    """Draw an image with its masks and a legend, and its expressions below.

    Args:
        view: the image and its annotation.
        title: title of the drawing.
    """
    drawn = sample_evenly(view.expressions, MAX_EXPRESSIONS)
    notes = [f'"{entry.text}": {_format_targets(entry.targets)}' for entry in drawn]
    if len(drawn) < len(view.expressions):
        notes.append(f"and {len(view.expressions) - len(drawn)} more expressions")
    return draw_segments(view.image, view.segments, title, scores=False, notes=notes, min_area=0)


def draw_training_item(item: dict[str, Any], image_format: str, title: str) -> Image.Image:
    """Draw an input of training as the model gets it: image, masks, and the text below.

    Args:
        item: of a dataset mapper in training: with `vocabulary`, with `expressions`, or a group
            with `images`.
        image_format: of its images, "RGB" or "BGR".
        title: title of the drawing.
    """
    if "images" in item:
        expression = item["expression"]
        results = [
            Segmentation(
                _pixels(one, image_format),
                [Segment(expression, "expression", one["target"].numpy().astype(bool), 1.0)],
            )
            for one in item["images"]
        ]
        return draw_group(results, expression)
    instances = item["instances"]
    masks = np.asarray(instances.gt_masks.tensor.numpy(), dtype=bool)
    classes = instances.gt_classes.tolist()
    if "expressions" in item:
        texts = item["expressions"]
        segments = [
            Segment(f"object of {index + 1}", "expression", mask, 1.0)
            for mask, index in zip(masks, classes, strict=True)
        ]
        notes = [f'{number} "{text}"' for number, text in enumerate(texts, 1)]
    else:
        entries = item["vocabulary"].classes
        segments = [
            Segment(entries[index].name, entries[index].kind, mask, 1.0)
            for mask, index in zip(masks, classes, strict=True)
        ]
        notes = ["text: " + ". ".join(entry.name for entry in entries) + "."]
    if item.get("ignored") is not None and bool(item["ignored"].any()):
        ignored = item["ignored"].numpy() > 0
        segments.append(Segment("(not annotated)", "stuff", ignored, 1.0))
    image = _pixels(item, image_format)
    return draw_segments(image, segments, title, scores=False, notes=notes, min_area=0)


def write_training_sheets(
    mapped: MappedDataset,
    cfg: CfgNode,
    name: str,
    output: str | os.PathLike[str],
    count: int,
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write contact sheets of what a model is trained on: resized, cropped, flipped, with its text.

    Args:
        mapped: a data set of training, see `build_mapped_dataset`.
        cfg: reads INPUT.FORMAT and SEED, which decides all random numbers.
        name: title of the sheets; the files' names begin with its stem.
        output: folder of the files.
        count: evenly spaced images that are drawn.
        overwrite: replace files that this package did not write.

    Returns:
        The files.

    Raises:
        ValueError, OSError: naming the file that cannot be read or written.
    """
    drawn = sample_evenly(range(len(mapped.records)), count)
    starts = range(0, len(drawn), IMAGES_PER_SHEET)
    files = [
        Path(output) / f"{Path(name).stem}_augmented_{number}.png" for number in range(len(starts))
    ]
    for file in files:
        require_replaceable(file, [], overwrite)
    for file, start in zip(files, starts, strict=True):
        drawings = []
        for index in drawn[start : start + IMAGES_PER_SHEET]:
            item = mapped.mapper(mapped.records[index], (max(cfg.SEED, 0), index))
            title = Path(item.get("file_name", "")).name
            drawings.append(draw_training_item(item, cfg.INPUT.FORMAT, title))
        write_drawing(file, contact_sheet(drawings, title=f"{name}, as in training"))
    return files


def _pixels(item: dict[str, Any], image_format: str) -> NDArray[Any]:
    """Return the image of an input, uint8 [h, w, 3] RGB."""
    pixels = item["image"].numpy().transpose(1, 2, 0)
    return np.ascontiguousarray(pixels[:, :, ::-1] if image_format == "BGR" else pixels)


def write_sheets(
    records: Sequence[dict[str, Any]],
    metadata: Metadata,
    name: str,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write the contact sheets of a data set.

    Args:
        records: in the checked form.
        metadata: of the data set, with its reading rules if they are not the default.
        name: title of the sheets; the files' names begin with its stem.
        output: folder of the files.
        overwrite: replace files that this package did not write.

    Returns:
        The files.

    Raises:
        ValueError, OSError: naming the file that cannot be read or written.
    """
    folder, starts = Path(output), range(0, len(records), IMAGES_PER_SHEET)
    stem = Path(name).stem
    files = [folder / f"{stem}_{number}.png" for number in range(len(starts))]
    images = [(record["file_name"], "image") for record in records]
    for file in files:
        require_replaceable(file, images, overwrite)
    for file, start in zip(files, starts, strict=True):
        with read_by(metadata.get(READING_RULES)):
            drawings = [
                draw_annotation(read_annotation(record, metadata), Path(record["file_name"]).name)
                for record in records[start : start + IMAGES_PER_SHEET]
            ]
        write_drawing(file, contact_sheet(drawings, title=name))
    return files


def _format_targets(targets: Sequence[int]) -> str:
    return ", ".join(str(target + 1) for target in targets) or "no target"
