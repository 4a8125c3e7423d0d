"""Reader of ReasonSeg (Lai et al., CVPR 2024): a JSON file beside each image, as LabelMe writes.

`<split>/<name>.json` has `text` (a list of questions or phrases), `is_sentence` and `shapes` with
`label` ("target", "ignore" or "flag") and `points`, polygons in pixels. `explanatory/train.json`
has the explanations: a list of `image`, `query` and `outputs`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
from numpy.typing import NDArray

from hipie.data.image_io import read_image_size
from hipie.data.io.json_file import read_json
from hipie.data.io.validation import DatasetError
from hipie.errors import MissingFileError
from hipie_reasoning.question_templates import DatasetQuestion, QueriedObject

IGNORED, TARGET = 255, 1


def load_reason_seg(
    folder: str | os.PathLike[str],
    explanations: str | os.PathLike[str] | None = None,
    *,
    first_only: bool = False,
) -> list[dict[str, Any]]:
    """Read a split.

    Args:
        folder: of the split, with `<name>.jpg` and `<name>.json`.
        explanations: `explanatory/train.json`; None or a missing file = none are known.
        first_only: keep the first of an image's texts, as the published evaluation does.

    Returns:
        Records with `file_name`, `height`, `width`, `image_id`, `masks` (RLE of the target),
        `ignore` (RLE of pixels that do not count) and `questions`.

    Raises:
        MissingFileError: if there is no file of this split.
        DatasetError: naming the file and the field that is wrong.
    """
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise MissingFileError(f"{folder}: there is no JSON file of ReasonSeg")
    known = _read_explanations(explanations)
    return [_record(file, number, known, first_only) for number, file in enumerate(files, 1)]


def rasterize(file: str, shapes: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the polygons of a file, large ones first, so that small ones are in front.

    Args:
        file: for messages.
        shapes: the file's list.
        size: (height, width) of the image.

    Returns:
        [H, W]: 1 in targets, 255 where ignored, else 0; outlines belong to their polygon.

    Raises:
        DatasetError: naming the file and the shape.
    """
    polygons = []
    for position, shape in enumerate(shapes):
        label = shape.get("label") if isinstance(shape, Mapping) else None
        if not isinstance(label, str):
            raise DatasetError(f"{file}: shape {position} has no label")
        if label.lower() == "flag":
            continue
        try:
            points = np.array(shape.get("points"), np.float64).reshape(-1, 2).astype(np.int32)
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"{file}: the points of shape {position} are no pairs of numbers"
            ) from error
        if not len(points):
            raise DatasetError(f"{file}: shape {position} has no points")
        value = IGNORED if "ignore" in label.lower() else TARGET
        area = int(_drawn(np.zeros(size, np.uint8), points, 1).sum())
        polygons.append((area, points, value))
    mask = np.zeros(size, np.uint8)
    # Reversed: of equal areas the published order has the later one first.
    for index in np.argsort([area for area, _, _ in polygons])[::-1]:
        _, points, value = polygons[index]
        _drawn(mask, points, value)
    return mask


def _drawn(mask: NDArray[np.uint8], points: NDArray[np.int32], value: int) -> NDArray[np.uint8]:
    cv2.polylines(mask, [points], True, value, 1)
    cv2.fillPoly(mask, [points], value)
    return mask


def _record(
    file: Path, number: int, explanations: Mapping[str, str], first_only: bool
) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, Mapping) or not isinstance(content.get("shapes"), list):
        raise DatasetError(f'{file}: this is not a file of ReasonSeg, which has a list "shapes"')
    texts = content.get("text")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DatasetError(f'{file}: its "text" is not a list of texts')
    texts = [text for text in texts if any(letter.isalnum() for letter in text)]
    if not texts:
        raise DatasetError(f'{file}: its "text" has no question')
    image = file.with_suffix(".jpg")
    size = read_image_size(image)
    mask = rasterize(str(file), content["shapes"], size)
    objects = (QueriedObject("", (0,) if (mask == TARGET).any() else ()),)
    is_question = bool(content.get("is_sentence"))
    return {
        "file_name": str(image),
        "image_id": number,
        "height": size[0],
        "width": size[1],
        "masks": [_encode(mask == TARGET)],
        "ignore": _encode(mask == IGNORED),
        "questions": [
            DatasetQuestion(text, is_question, objects, explanations.get(image.name, ""))
            for text in texts[: 1 if first_only else None]
        ],
    }


def _encode(mask: NDArray[np.bool_]) -> Any:
    return mask_util.encode(np.asfortranarray(mask, np.uint8))


def _read_explanations(file: str | os.PathLike[str] | None) -> dict[str, str]:
    if file is None or not os.path.isfile(file):
        return {}
    content = read_json(file)
    entries = content if isinstance(content, list) else []
    texts = {
        entry["image"]: entry["outputs"]
        for entry in entries
        if isinstance(entry, Mapping)
        and isinstance(entry.get("image"), str)
        and isinstance(entry.get("outputs"), str)
    }
    if not isinstance(content, list) or len(texts) < len({str(e) for e in entries}):
        raise DatasetError(f'{file}: its entries need "image" and "outputs", both texts')
    return texts
