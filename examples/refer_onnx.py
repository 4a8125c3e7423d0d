"""Segment what an expression describes with an exported ReferSAM or GRSer, without PyTorch.

pip install numpy onnxruntime pillow pycocotools tokenizers
python refer_onnx.py FILE.onnx "the red car" IMAGE [IMAGE ...] --output OUT.json

The file has the form of those of hipie group, also for a single image.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from onnx_results import to_json
from onnx_text import description, expression_ids
from PIL import Image, ImageOps
from run_onnx import resize_weights


def read(image: np.ndarray, model: dict) -> np.ndarray:
    """Resize an RGB image [H, W, 3] uint8 to the square [3, S, S] that the model reads."""
    size = (model["square_size"],) * 2
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    pixels = pixels[:, :, ::-1] if model["format"] == "BGR" else pixels
    return pixels.transpose(2, 0, 1).astype(np.float32)


def logits_of(
    session: onnxruntime.InferenceSession, images: list[np.ndarray], expression: str
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Mask logits [S, S] of every image, and its distances to expression and anti-expression.

    A group is run in parts of the number of images of the model; the last part is filled with its
    own images in turn.
    """
    model = description(session)
    pixels = [read(image, model) for image in images]
    ids = expression_ids(model, expression)
    if model["task"] == "referring":
        return [(session.run(None, {"image": i, "ids": ids})[0], None) for i in pixels]
    anti_ids, count = expression_ids(model, expression, model["anti_prefix"]), model["num_images"]
    results: list = []
    for start in range(0, len(images), count):
        part = pixels[start : start + count]
        padded = np.stack([part[i % len(part)] for i in range(count)])
        inputs = {"images": padded, "ids": ids, "anti_ids": anti_ids}
        results += zip(*session.run(None, inputs), strict=True)
    return results[: len(images)]


def segment(
    session: onnxruntime.InferenceSession, images: list[np.ndarray], expression: str
) -> list[dict]:
    """One segment an image: name, category_id, kind, score, mask [H, W] (empty without target)."""
    model, segments = description(session), []
    for image, (small, distances) in zip(
        images, logits_of(session, images, expression), strict=True
    ):
        rows, columns = (resize_weights(len(small), side) for side in image.shape[:2])
        logits = rows @ small @ columns.T
        mask, score = logits > 0, None
        if model["task"] == "referring":
            share = (small >= 0).mean(dtype=np.float32) * model["reference_side"] ** 2
            mask = (logits >= 0) & (share >= model["no_target_pixels"])
        elif model["margin"] is not None:
            score = float(1 / (1 + np.exp(distances[0] + model["margin"] - distances[1])))
            mask &= score > 0.5
        if score is None:
            inside = 1 / (1 + np.exp(-np.clip(logits[mask], -80, 80)))
            score = float(inside.mean()) if len(inside) else 0.0
        entry = {"name": expression, "category_id": 0, "kind": "expression"}
        segments.append({**entry, "score": score, "mask": mask})
    return segments


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="file of hipie export --format onnx")
    parser.add_argument("expression")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--output", default="out.json")
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.model)
    images = [
        np.array(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
        for file in options.images
    ]
    content = []
    found = segment(session, images, options.expression)
    for file, image, entry in zip(options.images, images, found, strict=True):
        shown = bool(entry["mask"].any())
        result = to_json(file, image.shape[:2], [entry] if shown else [], "refer_onnx.py")
        content.append({"image": result["image"], "shown": shown, "segments": result["segments"]})
    settings = {"program": "refer_onnx.py", "expression": options.expression}
    Path(options.output).write_text(json.dumps({"settings": settings, "images": content}))


if __name__ == "__main__":
    main()
