"""Referring segmentation: does the mask show the one object that the sentence describes?"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances

from hipie.data.mappers.objects import decode_mask
from hipie.evaluation.gathering import gather_lists
from hipie.evaluation.overlap import overlap, referring_scores


class SentenceEvaluator(DatasetEvaluator):
    """What judges of sentences share: every answer laid over what its sentence means.

    Outputs are dicts with `referring`: for every sentence of the input an `Instances` with
    `pred_masks` [n, H, W] (n = 0: an empty answer; more than one: their union).

    Args:
        dataset_name: a registered data set whose records have `sentences`.
        distributed: gather from all processes.
        result_name: the key of the results.
    """

    def __init__(self, dataset_name: str, distributed: bool, result_name: str) -> None:
        self._records = {r["image_id"]: r for r in DatasetCatalog.get(dataset_name)}
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._counts: list[tuple[Any, ...]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: if a picture has fewer or more answers than sentences.
        """
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records[item["image_id"]]
            answers = output["referring"]
            if len(answers) != len(record["sentences"]):
                raise ValueError(
                    f"{record['file_name']}: {len(record['sentences'])} sentences, but "
                    f"{len(answers)} answers"
                )
            objects = object_masks(record)
            for sentence, answer in zip(record["sentences"], answers, strict=True):
                target = target_mask(objects, sentence, record)
                self._counts.append(
                    self._count(sentence, answer_mask(answer, target.shape), target)
                )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The scores in percent; None on all but the first process."""
        counts = gather_lists(self._counts, self._distributed)
        return None if counts is None else OrderedDict({self._result_name: self._scores(counts)})

    @abstractmethod
    def _count(
        self, sentence: dict[str, Any], answered: np.ndarray, target: np.ndarray
    ) -> tuple[Any, ...]:
        """What is kept of one sentence; masks are bool [H, W]."""

    @abstractmethod
    def _scores(self, counts: list[tuple[Any, ...]]) -> dict[str, float]:
        """The scores of all sentences, from what was kept of each."""


class ReferringEvaluator(SentenceEvaluator):
    """oIoU, mIoU and P@0.5 ... 0.9 over the sentences of a data set, at the pictures' own size.

    Public numbers of LAVT and others are taken at 480x480; these are not. Sentences that mean
    several objects count with the union of them. Sentences that carry a `kind` are also reported
    kind by kind (`oIoU-<kind>`), and those with `held_out` by what training withheld of their
    words: `oIoU-seen` for nothing (""), else `oIoU-unseen_<what>`, as `oIoU-unseen_class` and
    `oIoU-unseen_pair` in the picture book.

    Outputs and arguments as for `SentenceEvaluator`.
    """

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "refer"
    ) -> None:
        super().__init__(dataset_name, distributed, result_name)

    def _count(
        self, sentence: dict[str, Any], answered: np.ndarray, target: np.ndarray
    ) -> tuple[int, int, tuple[str, ...]]:
        return (*overlap(answered, target), _groups(sentence))

    def _scores(self, counts: list[tuple[int, int, tuple[str, ...]]]) -> dict[str, float]:
        scores = referring_scores([c[0] for c in counts], [c[1] for c in counts])
        scores["sentences"] = len(counts)
        by_group: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for both, either, groups in counts:
            for group in groups:
                by_group[group].append((both, either))
        for group, pairs in sorted(by_group.items()):
            found = referring_scores([p[0] for p in pairs], [p[1] for p in pairs])
            scores[f"oIoU-{group}"] = found["oIoU"]
        return scores


def object_masks(record: dict[str, Any]) -> list[np.ndarray]:
    """The masks of a record's annotations, bool [H, W] each."""
    size = record["height"], record["width"]
    return [decode_mask(a["segmentation"], *size).astype(bool) for a in record["annotations"]]


def target_mask(
    objects: list[np.ndarray], sentence: dict[str, Any], record: dict[str, Any]
) -> np.ndarray:
    """What a sentence means: the union of its objects, bool [H, W]."""
    target = np.zeros((record["height"], record["width"]), dtype=bool)
    for position in sentence["targets"]:
        target |= objects[position]
    return target


def answer_mask(answer: Instances, shape: tuple[int, int]) -> np.ndarray:
    """The union of an answer's masks, bool [H, W].

    Raises:
        ValueError: if the masks are not of the picture's size.
    """
    masks = answer.pred_masks.detach().cpu().numpy().astype(bool)
    if len(masks) == 0:
        return np.zeros(shape, dtype=bool)
    if masks.shape[1:] != shape:
        raise ValueError(f"an answer of {masks.shape[1:]} pixels for a picture of {shape}")
    return masks.any(axis=0)


def _groups(sentence: dict[str, Any]) -> tuple[str, ...]:
    found = [str(sentence["kind"])] if "kind" in sentence else []
    if "held_out" in sentence:
        found.append(f"unseen_{sentence['held_out']}" if sentence["held_out"] else "seen")
    return tuple(found)
