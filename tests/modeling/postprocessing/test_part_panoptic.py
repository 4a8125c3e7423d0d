"""Parts of panoptic segments, compared with values computed by hand."""

from __future__ import annotations

import torch

from hipie.modeling.postprocessing.part_panoptic import (
    part_owners,
    part_segmentation,
    suppress_part_queries,
)

NAMES = ("dog", "person", "sky", "dog head", "person head", "dog leg", "person eye", "cat tail")
WHOLES = (None, None, None, "dog", "person", "dog", "person head", "cat")
OWNERS = [None, None, None, 0, 1, 0, 1, None]


def test_nested_parts_belong_to_their_root_whole() -> None:
    assert part_owners(NAMES, WHOLES) == OWNERS


def test_cyclic_wholes_have_no_root() -> None:
    assert part_owners(("a", "b", "c"), ("b", "a", "b")) == [None, None, None]


def test_scores_of_part_queries_are_zero() -> None:
    scores = torch.tensor(
        [
            [8, 0, 0, 7, 0, 0, 0, 0],
            [7, 0, 0, 8, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0, 2, 0],
            [0, 0, 1, 0, 0, 0, 0, 2],
        ]
    )
    suppressed = suppress_part_queries(scores, OWNERS)
    assert suppressed.tolist() == [scores[0].tolist(), [0] * 8, [0] * 8, scores[3].tolist()]
    assert suppress_part_queries(scores, [None] * 8) is scores


def test_pixels_have_the_best_part_of_their_own_class() -> None:
    segments = torch.tensor([[0, 5, 5], [5, 2, 2], [9, 9, 2]], dtype=torch.int32)
    segments_info = [
        {"id": 5, "category_id": 0},
        {"id": 2, "category_id": 1},
        {"id": 9, "category_id": 2},
    ]
    scores = torch.zeros(8, 3, 3, dtype=torch.long)
    scores[0], scores[7] = 9, 9
    # The dog's head and leg; a person's head scores higher on all of them.
    scores[3] = torch.tensor([[1, 3, 1], [2, 0, 0], [0, 0, 0]])
    scores[5] = torch.tensor([[2, 1, 3], [2, 9, 9], [9, 9, 9]])
    scores[4] = torch.tensor([[7, 7, 7], [7, 1, 2], [3, 3, 4]])
    scores[6] = torch.tensor([[8, 8, 8], [8, 3, 1], [4, 4, 5]])
    part_map = part_segmentation(segments, segments_info, scores, OWNERS)
    assert part_map.dtype == torch.int32
    # Between equal scores the first part is taken.
    assert part_map.tolist() == [[0, 1, 2], [1, 2, 1], [0, 0, 2]]


def test_two_segments_of_a_class_and_an_empty_map() -> None:
    segments = torch.tensor([[1, 2]], dtype=torch.int32)
    segments_info = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 0}]
    scores = torch.zeros(8, 1, 2, dtype=torch.long)
    scores[5, 0, 1] = 1
    assert part_segmentation(segments, segments_info, scores, OWNERS).tolist() == [[1, 2]]
    assert part_segmentation(torch.zeros(1, 2).int(), [], scores, OWNERS).tolist() == [[0, 0]]
