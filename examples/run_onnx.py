"""Segment an image with a model of `hipie export --format onnx`, without PyTorch.

pip install numpy onnxruntime pillow pycocotools
python run_onnx.py FILE.onnx IMAGE --output OUT.json    (what hipie segment writes)
python run_onnx.py FILE.onnx IMAGE --output OUT.png     (a drawing)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask


def resized_size(height: int, width: int, model: dict) -> tuple[int, int]:
    """Size (height, width) at which the model reads an image."""
    scale = model["min_size"] / min(height, width) if model["min_size"] else 1.0
    if model["min_size"] and max(height, width) * scale > model["max_size"]:
        scale = model["max_size"] / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_weights(source: int, size: int) -> np.ndarray:
    """Matrix [size, source] of bilinear resizing of a line."""
    place = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
    first = np.minimum(place.astype(int), max(source - 2, 0))
    weights = np.zeros((size, source), np.float32)
    weights[np.arange(size), first] = 1 - (place - first)
    weights[np.arange(size), np.minimum(first + 1, source - 1)] += place - first
    return weights


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Non-maximum suppression among the queries of a class: those that stay, best first."""
    labels, best = scores.argmax(1), scores.max(1)
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    kept: list[int] = []
    for query in np.argsort(-best, kind="stable"):
        rivals = [other for other in kept if labels[other] == labels[query]]
        low = np.maximum(corners[query, :2], corners[rivals, :2])
        high = np.minimum(corners[query, 2:], corners[rivals, 2:])
        common = np.clip(high - low, 0, None).prod(1)
        union = boxes[query, 2:].prod() + boxes[rivals, 2:].prod(1) - common
        if not (common > threshold * union).any():
            kept.append(int(query))
    return kept


def segment(session: onnxruntime.InferenceSession, image: np.ndarray) -> list[dict]:
    """Panoptic segments of an RGB image [H, W, 3] uint8: category_id, kind, score, mask."""
    model = json.loads(session.get_modelmeta().custom_metadata_map["hipie"])
    height, width = image.shape[:2]
    h, w = resized_size(height, width, model)
    pixels = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    pixels = pixels[:, :, ::-1] if model["format"] == "BGR" else pixels
    step = model["divisibility"]
    canvas = np.zeros((3, -(-h // step) * step, -(-w // step) * step), np.float32)
    canvas[:, :h, :w] = pixels.transpose(2, 0, 1)
    size = np.array([h, w], np.int64)
    boxes, scores, competing, masks = session.run(None, {"image": canvas, "size": size})
    queries = [*suppress(boxes, scores, model["nms"]), *range(len(boxes), len(masks))]
    queries = [query for query in queries if competing[query].max() > model["object_mask"]]
    if not queries:
        return []
    labels, best = competing[queries].argmax(1), competing[queries].max(1)
    rows = resize_weights(h, height) @ resize_weights(masks.shape[1], 4 * masks.shape[1])[:h]
    columns = resize_weights(w, width) @ resize_weights(masks.shape[2], 4 * masks.shape[2])[:w]
    logits = rows @ masks[queries] @ columns.T
    probabilities = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    winner = (probabilities * best[:, None, None]).argmax(0)
    segments: list[dict] = []
    for row, label in enumerate(labels.tolist()):
        own = probabilities[row] >= 0.5
        mask = own & (winner == row)
        if not mask.any() or (winner == row).sum() / own.sum() < model["overlap"]:
            continue
        kind = model["classes"][label]["kind"]
        same = [s for s in segments if s["category_id"] == label and s["kind"] == "stuff"]
        if same:  # the parts of one stuff class are one segment
            same[0]["mask"] |= mask
            continue
        score = float(best[row])
        segments.append({"category_id": label, "kind": kind, "score": score, "mask": mask})
    return segments


def to_json(session: onnxruntime.InferenceSession, file: str, size: tuple, found: list) -> dict:
    """The content of a result file of `hipie segment`."""
    classes = json.loads(session.get_modelmeta().custom_metadata_map["hipie"])["classes"]
    segments = []
    for number, entry in enumerate(found, 1):
        rle = coco_mask.encode(np.asfortranarray(entry["mask"], dtype=np.uint8))
        segments.append(
            {
                "id": number,
                "category": classes[entry["category_id"]]["name"],
                "category_id": entry["category_id"],
                "kind": entry["kind"],
                "score": round(entry["score"], 4),
                "bbox": [int(value) for value in coco_mask.toBbox(rle)],
                "area": int(entry["mask"].sum()),
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
            }
        )
    image = {"file": file, "width": size[1], "height": size[0]}
    return {"image": image, "settings": {"program": "run_onnx.py"}, "segments": segments}


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="file of hipie export --format onnx")
    parser.add_argument("image")
    parser.add_argument("--output", default="out.json", help="a .json or .png file")
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    image = np.array(ImageOps.exif_transpose(Image.open(options.image)).convert("RGB"))
    found = segment(session, image)
    if options.output.endswith(".json"):
        content = to_json(session, options.image, image.shape[:2], found)
        Path(options.output).write_text(json.dumps(content))
        return
    for number, entry in enumerate(found):
        colour = np.random.default_rng(number).integers(0, 256, 3)
        image[entry["mask"]] = image[entry["mask"]] // 2 + (colour // 2).astype(np.uint8)
    Image.fromarray(image).save(options.output)


if __name__ == "__main__":
    main()
