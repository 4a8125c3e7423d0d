"""Segment an image with a model of `hipie export --format onnx`, without PyTorch.

pip install numpy onnxruntime pillow pycocotools (and tokenizers for class names)
python run_onnx.py FILE.onnx IMAGE --output OUT.json    (what hipie segment writes)
python run_onnx.py FILE.onnx IMAGE --output OUT.png     (a drawing)
python run_onnx.py FILE.onnx IMAGE --things "car; dog" --stuff grass    (of --open-vocabulary)
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from onnx_results import draw, to_json
from PIL import Image, ImageOps

MIN_SCORE = 0.4  # of instances


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


def segment(
    session: onnxruntime.InferenceSession,
    image: np.ndarray,
    names: tuple[dict, list | None] = ({}, None),
    instances: bool = False,
) -> list[dict]:
    """Segments of an RGB image [H, W, 3] uint8: category, category_id, kind, score, mask [H, W].

    Args:
        session: the model.
        image: the pixels.
        names: result of `onnx_text.encode_names`, for models without class names of their own.
        instances: every instance of a thing instead of segments that do not overlap.
    """
    model = json.loads(session.get_modelmeta().custom_metadata_map["hipie"])
    classes, (height, width) = names[1] or model["classes"], image.shape[:2]
    h, w = resized_size(height, width, model)
    pixels = np.asarray(Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR))
    pixels = pixels[:, :, ::-1] if model["format"] == "BGR" else pixels
    step = model["divisibility"]
    canvas = np.zeros((3, -(-h // step) * step, -(-w // step) * step), np.float32)
    canvas[:, :h, :w] = pixels.transpose(2, 0, 1)
    inputs = {"image": canvas, "size": np.array([h, w], np.int64), **names[0]}
    boxes, scores, competing, masks = session.run(None, inputs)
    kept = suppress(boxes, scores, model["nms"])
    rows = resize_weights(masks.shape[1], 4 * masks.shape[1])[:h]
    columns = resize_weights(masks.shape[2], 4 * masks.shape[2])[:w]
    segments: list[dict] = []
    if instances:
        things = [label for label, entry in enumerate(classes) if entry["kind"] == "thing"]
        pairs = [(float(scores[query, label]), query, label) for query in kept for label in things]
        nearest = np.ix_(np.arange(height) * h // height, np.arange(width) * w // width)
        for score, query, label in sorted(pairs, key=lambda pair: -pair[0])[: model["detections"]]:
            mask = (rows @ masks[query] @ columns.T > 0)[nearest]
            if score >= MIN_SCORE and mask.any():
                segments.append({"category_id": label, "score": score, "mask": mask})
    else:
        queries = [*kept, *range(len(boxes), len(masks))]
        queries = [query for query in queries if competing[query].max() > model["object_mask"]]
        rows, columns = resize_weights(h, height) @ rows, resize_weights(w, width) @ columns
        logits = rows @ masks[queries] @ columns.T
        segments = merge(competing[queries], logits, classes, model["overlap"])
    return [{**classes[entry["category_id"]], **entry} for entry in segments]


def merge(scores: np.ndarray, logits: np.ndarray, classes: list, overlap: float) -> list[dict]:
    """Panoptic segments of queries: category_id, score and mask."""
    segments: list[dict] = []
    if not len(scores):
        return segments
    labels, best = scores.argmax(1), scores.max(1)
    probabilities = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    winner = (probabilities * best[:, None, None]).argmax(0)
    for row, label in enumerate(labels.tolist()):
        own = probabilities[row] >= 0.5
        mask = own & (winner == row)
        if not mask.any() or (winner == row).sum() / own.sum() < overlap:
            continue
        same = [entry for entry in segments if entry["category_id"] == label]
        if same and classes[label]["kind"] == "stuff":  # its parts are one segment
            same[0]["mask"] |= mask
            continue
        segments.append({"category_id": label, "score": float(best[row]), "mask": mask})
    return segments


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="file of hipie export --format onnx")
    parser.add_argument("image")
    parser.add_argument("--output", default="out.json", help="a .json or .png file")
    parser.add_argument("--instances", action="store_true", help="every instance of the things")
    parser.add_argument("--things", default="", help='"car; dog", for --open-vocabulary')
    parser.add_argument("--stuff", default="", help="likewise")
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.model)
    names: tuple = ({}, None)
    if options.things or options.stuff:
        from onnx_text import encode_names

        names = encode_names(options.model, options.things, options.stuff)
    image = np.array(ImageOps.exif_transpose(Image.open(options.image)).convert("RGB"))
    found = segment(session, image, names, options.instances)
    if options.output.endswith(".json"):
        content = to_json(options.image, image.shape[:2], found, "run_onnx.py")
        Path(options.output).write_text(json.dumps(content))
    else:
        draw(image, found).save(options.output)


if __name__ == "__main__":
    main()
