"""Referring segmentation: does the mask show the one object that the sentence describes?"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hipie.evaluation.overlap import Overlap, referring_scores
from hipie.evaluation.sentences import SentenceEvaluator


class ReferringEvaluator(SentenceEvaluator):
    """oIoU, mIoU and P@0.5 ... 0.9 over the sentences of a data set.

    Sentences that mean several objects count with the union of them. Sentences that carry a `kind`
    are also reported kind by kind (`oIoU-<kind>`), and those with `held_out` by what training
    withheld of their words: `oIoU-seen` for nothing (""), else `oIoU-unseen_<what>`, as
    `oIoU-unseen_class` and `oIoU-unseen_pair` in the picture book.

    Outputs and arguments as for `SentenceEvaluator`.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        result_name: str = "refer",
        also_at: int | None = None,
    ) -> None:
        super().__init__(dataset_name, distributed, result_name, also_at)

    def _notes(self, sentence: dict[str, Any]) -> tuple[str, ...]:
        found = [str(sentence["kind"])] if "kind" in sentence else []
        if "held_out" in sentence:
            found.append(f"unseen_{sentence['held_out']}" if sentence["held_out"] else "seen")
        return tuple(found)

    def _scores(self, counts: list[tuple[tuple[str, ...], Overlap]]) -> dict[str, float]:
        scores = referring_scores([overlap for _, overlap in counts])
        by_group: dict[str, list[Overlap]] = defaultdict(list)
        for groups, overlap in counts:
            for group in groups:
                by_group[group].append(overlap)
        for group, overlaps in sorted(by_group.items()):
            scores[f"oIoU-{group}"] = referring_scores(overlaps)["oIoU"]
        return scores
