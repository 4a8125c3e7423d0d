"""Predicted boxes and masks of many images as a few arrays, for AP, which needs all of them."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.evaluation.distributed import gather_arrays

Prediction = dict[str, Any]


class InstancePredictions:
    """Predictions in COCO's format, stored as arrays.

    An instance takes 44 bytes and its compressed run lengths, where a dict of Python objects takes
    about 1,000. Processes send the arrays as they are, without pickling.
    """

    def __init__(self) -> None:
        self._image_ids = bytearray()  # JSON texts, whose lengths are in `_images`
        self._images = array("q")  # of each image: length of its id, instances, height, width
        self._classes = array("q")
        self._scores = array("d")
        self._boxes = array("d")  # 4 of each instance, XYWH
        self._rle_lengths = array("i")  # -1 = no mask
        self._rles = bytearray()

    def __len__(self) -> int:
        return len(self._images) // 4

    def add(self, image_id: Any, instances: Sequence[Prediction]) -> None:
        """Add the instances of an image.

        Args:
            image_id: a number or a text.
            instances: results of Detectron2's `instances_to_coco_json`.
        """
        text = json.dumps(image_id).encode()
        height, width = 0, 0
        self._image_ids += text
        for instance in instances:
            self._classes.append(int(instance["category_id"]))
            self._scores.append(float(instance["score"]))
            self._boxes.extend(instance["bbox"])
            rle = instance.get("segmentation")
            if rle is None:
                self._rle_lengths.append(-1)
                continue
            height, width = rle["size"]
            counts = rle["counts"].encode("ascii")
            self._rle_lengths.append(len(counts))
            self._rles += counts
        self._images.extend((len(text), len(instances), height, width))

    def arrays(self) -> list[NDArray[Any]]:
        """Return copies of all arrays."""
        return [
            np.frombuffer(bytes(self._image_ids), np.uint8),
            np.array(self._images, np.int64).reshape(-1, 4),
            np.array(self._classes, np.int64),
            np.array(self._scores, np.float64),
            np.array(self._boxes, np.float64).reshape(-1, 4),
            np.array(self._rle_lengths, np.int32),
            np.frombuffer(bytes(self._rles), np.uint8),
        ]

    def gather(self, distributed: bool) -> list[Prediction] | None:
        """Return the predictions of all processes; None on all but the first process.

        Returns:
            One dict an image, in the order of ranks: `image_id` and `instances`, a list of dicts in
            COCO's format.
        """
        arrays = gather_arrays(self.arrays(), distributed)
        return None if arrays is None else _unpack(*arrays)


def _unpack(
    id_bytes: NDArray[Any],
    images: NDArray[Any],
    classes: NDArray[Any],
    scores: NDArray[Any],
    boxes: NDArray[Any],
    rle_lengths: NDArray[Any],
    rle_bytes: NDArray[Any],
) -> list[Prediction]:
    texts, rles = id_bytes.tobytes(), rle_bytes.tobytes().decode("ascii")
    predictions: list[Prediction] = []
    text_end = start = rle_end = 0
    for length, count, height, width in images.tolist():
        image_id = json.loads(texts[text_end : text_end + length])
        text_end += length
        instances = []
        for index in range(start, start + count):
            instance: Prediction = {
                "image_id": image_id,
                "category_id": int(classes[index]),
                "bbox": boxes[index].tolist(),
                "score": float(scores[index]),
            }
            if rle_lengths[index] >= 0:
                begin, rle_end = rle_end, rle_end + int(rle_lengths[index])
                instance["segmentation"] = {"size": [height, width], "counts": rles[begin:rle_end]}
            instances.append(instance)
        start += count
        predictions.append({"image_id": image_id, "instances": instances})
    return predictions
