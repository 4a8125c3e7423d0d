"""Tiny data sets of every kind, with the names of files that docs/your_own_data.md has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64
COLOURS = ((200, 40, 40), (40, 80, 200))


def write_sets(root: Path) -> None:
    """Write six data sets: a red and a blue rectangle on grey, in each image elsewhere."""
    rng = np.random.default_rng(0)
    _instances(root / "shelf", rng)
    _panoptic(root / "kitchen", rng)
    _label_maps(root / "street", rng, "road\nbackground\ncar\n", ("train", "val"))
    _label_maps(root / "face", rng, "background\nhair\neye\n", ("",))
    _expressions(root / "table", rng)
    _groups(root / "cups", rng)


def _drawn(rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """Return an image and the boxes (x, y, width, height) of its two rectangles."""
    pixels = rng.integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    boxes = []
    for half, colour in enumerate(COLOURS):
        x, y = int(rng.integers(2, 12)) + half * WIDTH // 2, int(rng.integers(4, 24))
        pixels[y : y + 18, x : x + 18] = colour
        boxes.append((x, y, 18, 18))
    return pixels, boxes


def _map(boxes: list[tuple[int, int, int, int]], values: tuple[int, int]) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for (x, y, width, height), value in zip(boxes, values, strict=True):
        labels[y : y + height, x : x + width] = value
    return labels


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _image(number: int) -> dict:
    return {"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH}


def _instances(folder: Path, rng: np.random.Generator) -> None:
    images, annotations = [], []
    for number in range(1, 5):
        pixels, boxes = _drawn(rng)
        _save(folder / f"images/{number}.jpg", pixels)
        images.append(_image(number))
        for category, (x, y, w, h) in enumerate(boxes, 1):
            annotation = {"id": len(annotations) + 1, "image_id": number, "category_id": category}
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotation |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            annotations.append({**annotation, "segmentation": [polygon]})
    categories = [{"id": 1, "name": "bottle"}, {"id": 2, "name": "box"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for name in ("train", "val"):
        (folder / f"{name}.json").write_text(json.dumps(content))


def _panoptic(folder: Path, rng: np.random.Generator) -> None:
    images, annotations = [], []
    for number in range(1, 4):
        pixels, boxes = _drawn(rng)
        _save(folder / f"images/{number}.jpg", pixels)
        ids = _map(boxes, (1, 2))
        ids[ids == 0] = 3
        _save(folder / f"maps/{number}.png", np.stack([ids, 0 * ids, 0 * ids], axis=-1))
        images.append(_image(number))
        segments = [{"id": i, "category_id": i} for i in (1, 2, 3)]
        annotations.append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
        )
    categories = [
        {"id": 1, "name": "cup", "isthing": 1},
        {"id": 2, "name": "plate", "isthing": 1},
        {"id": 3, "name": "table", "isthing": 0},
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for name in ("train", "val"):
        (folder / f"{name}.json").write_text(json.dumps(content))


def _label_maps(
    folder: Path, rng: np.random.Generator, names: str, splits: tuple[str, ...]
) -> None:
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text(names)
    for split in splits:
        for number in (1, 2, 9):
            pixels, boxes = _drawn(rng)
            _save(folder / "images" / split / f"{number}.jpg", pixels)
            _save(folder / "maps" / split / f"{number}.png", _map(boxes, (1, 2)))


def _expressions(folder: Path, rng: np.random.Generator) -> None:
    refs = []
    for number in range(1, 4):
        pixels, boxes = _drawn(rng)
        _save(folder / f"{number}.jpg", pixels)
        _save(folder / f"{number}.png", 255 * _map(boxes, (1, 0)))
        entry = {"image": f"{number}.jpg", "mask": f"{number}.png", "class": "cup"}
        refs.append({**entry, "sentences": ["the red cup", "the cup on the left"]})
    (folder / "refs.json").write_text(json.dumps(refs))


def _groups(folder: Path, rng: np.random.Generator) -> None:
    entries = []
    for number in range(1, 9):
        pixels, boxes = _drawn(rng)
        _save(folder / f"{number}.jpg", pixels)
        _save(folder / f"{number}.png", 255 * _map(boxes, (1, 0) if number < 5 else (0, 1)))
        entries.append({"image": f"{number}.jpg", "mask": f"{number}.png"})
    groups = {
        "cup": {"train": entries[:2], "val": entries[2:4]},
        "bowl": {"train": entries[4:6], "val": entries[6:]},
    }
    (folder / "groups.json").write_text(json.dumps(groups))
