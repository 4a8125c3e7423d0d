"""Results of exported models as the JSON of `hipie segment`, and as drawings."""

from __future__ import annotations

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask


def to_json(file: str, size: tuple[int, int], segments: list[dict], program: str) -> dict:
    """The content of a result file of `hipie segment`.

    Args:
        file: of the image.
        size: its (height, width).
        segments: dicts with name, category_id, kind, score and mask [height, width] bool.
        program: the name of the one that writes the file.
    """
    entries = []
    for number, entry in enumerate(segments, 1):
        rle = coco_mask.encode(np.asfortranarray(entry["mask"], dtype=np.uint8))
        entries.append(
            {
                "id": number,
                "category": entry["name"],
                "category_id": entry["category_id"],
                "kind": entry["kind"],
                "score": round(entry["score"], 4),
                "bbox": [int(value) for value in coco_mask.toBbox(rle)],
                "area": int(entry["mask"].sum()),
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
            }
        )
    image = {"file": file, "width": size[1], "height": size[0]}
    return {"image": image, "settings": {"program": program}, "segments": entries}


def draw(image: np.ndarray, segments: list[dict]) -> Image.Image:
    """Draw the masks of segments over an image."""
    for number, entry in enumerate(segments):
        colour = np.random.default_rng(number).integers(0, 256, 3)
        image[entry["mask"]] = image[entry["mask"]] // 2 + (colour // 2).astype(np.uint8)
    return Image.fromarray(image)
