"""Part segmentation: mean IoU over part phrases."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from hipie.data.image_io import read_label_map
from hipie.evaluation.distributed import gather_sum


class PartEvaluator(DatasetEvaluator):
    """mIoU of the best phrase a pixel against label maps of parts, in percent.

    Outputs are dicts with `sem_seg` [K, H, W], in the order of the data set's phrases. Pixels with
    the label 0 are ignored. The mean is over phrases that the data set shows; a phrase that is
    only predicted does not enter the mean, but its pixels are missing elsewhere.

    Where the metadata has `part_groups` (a group for every phrase, -1 = ignore), prediction and
    truth are also compared as groups: `mIoU_grouped`, the papers' MIoU-PartS. Where it has
    `part_wholes` (the whole of every phrase that is a part), `mIoU_parts` is the mean over those,
    and `inside_whole` is consistency: of the pixels that are said to show a part, the share whose
    truth is that part's whole, whichever part of it or its own name.

    Args:
        dataset_name: a registered data set whose records have `part_seg_file_name`.
        distributed: gather from all processes.
        result_name: the key of the results.
    """

    protocol = "one phrase a pixel, pixels of all images together; label 0 is ignored"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "parts"
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        self._names = list(metadata.stuff_classes)
        self._groups = metadata.get("part_groups")
        self._wholes = metadata.get("part_wholes", {})
        self._parts = [name in self._wholes for name in self._names]
        self._label_files = {
            record["file_name"]: record["part_seg_file_name"]
            for record in DatasetCatalog.get(dataset_name)
        }
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._counts = np.zeros((len(self._names), len(self._names)), dtype=np.int64)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: naming the label map, if its size is not the prediction's.
        """
        for item, output in zip(inputs, outputs, strict=True):
            path = self._label_files[item["file_name"]]
            predicted = output["sem_seg"].argmax(dim=0).cpu().numpy()
            truth = read_label_map(path).astype(np.int64) - 1
            if truth.shape != predicted.shape:
                raise ValueError(
                    f"{path}: the label map has {truth.shape} pixels, the prediction "
                    f"{predicted.shape}"
                )
            self._counts += confusion(predicted, truth, len(self._names))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The scores in percent; None on all but the first process."""
        counts = gather_sum(self._counts, self._distributed)
        if counts is None:
            return None
        each = iou_of_classes(counts)
        scores = {"mIoU": mean_of_shown(each)}
        if any(self._parts):
            scores["mIoU_parts"] = mean_of_shown(each[self._parts])
            scores["inside_whole"] = inside_whole(counts, self._names, self._wholes)
        if self._groups is not None:
            scores["mIoU_grouped"] = mean_of_shown(iou_of_classes(grouped(counts, self._groups)))
        for name, value in zip(self._names, each, strict=True):
            scores[f"IoU-{name}"] = 100.0 * float(value)
        return OrderedDict({self._result_name: scores})


def inside_whole(counts: np.ndarray, names: Sequence[str], wholes: Mapping[str, str]) -> float:
    """Of the pixels that are said to show a part, the percentage that shows its whole.

    Args:
        counts: pixels by (truth, prediction).
        names: of the rows and columns.
        wholes: by the name of a part.

    Returns:
        NaN if no pixel is said to show a part.
    """
    own = np.array([wholes.get(name, name) for name in names])
    parts = np.array([name in wholes for name in names])
    said = counts[:, parts]
    right = (own[:, None] == own[None, parts]) * said
    return 100.0 * float(right.sum()) / float(said.sum()) if said.sum() else float("nan")


def confusion(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by (truth, prediction), int64 [classes, classes]; truth below 0 is ignored."""
    # Row 0 is for what is ignored: cheaper than leaving those pixels out.
    pairs = truth.astype(np.int64).ravel()
    pairs += 1
    np.maximum(pairs, 0, out=pairs)
    pairs *= classes
    pairs += predicted.ravel()
    counts = np.bincount(pairs, minlength=(classes + 1) * classes)
    return counts.reshape(classes + 1, classes)[1:]


def iou_of_classes(counts: np.ndarray) -> np.ndarray:
    """IoU 0..1 of every class of a confusion matrix; NaN where the truth does not show it."""
    hits = counts.diagonal().astype(np.float64)
    shown = counts.sum(axis=1)
    unions = shown + counts.sum(axis=0) - hits
    return np.divide(hits, unions, out=np.full(len(counts), np.nan), where=shown > 0)


def mean_of_shown(each: np.ndarray) -> float:
    """The mean in percent of what is not NaN; NaN if nothing is."""
    shown = each[~np.isnan(each)]
    return 100.0 * float(shown.mean()) if len(shown) else float("nan")


def grouped(counts: np.ndarray, groups: Sequence[int]) -> np.ndarray:
    """A confusion matrix of groups; truth in group -1 is ignored, predictions there are misses.

    Returns:
        int64 [G + 1, G + 1], the last row and column for group -1; its row is 0.
    """
    places = np.asarray(groups)
    number = int(places.max()) + 1
    places = np.where(places < 0, number, places)
    found = np.zeros((number + 1, number + 1), dtype=np.int64)
    np.add.at(found, (places[:, None], places[None, :]), counts)
    found[number] = 0
    return found
