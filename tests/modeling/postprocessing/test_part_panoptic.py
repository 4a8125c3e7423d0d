"""Parts inside the segments of a panoptic map, against numbers worked out by hand."""

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


def test_parts_of_parts_belong_to_the_class_in_the_end() -> None:
    assert part_owners(NAMES, WHOLES) == OWNERS


def test_a_circle_of_parts_belongs_to_no_class() -> None:
    assert part_owners(("a", "b", "c"), ("b", "a", "b")) == [None, None, None]


def test_queries_that_show_parts_are_sure_of_nothing() -> None:
    scores = torch.tensor(
        [
            [8, 0, 0, 7, 0, 0, 0, 0],
            [7, 0, 0, 8, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0, 2, 0],
            [0, 0, 1, 0, 0, 0, 0, 2],
        ]
    )
    left = suppress_part_queries(scores, OWNERS)
    assert left.tolist() == [scores[0].tolist(), [0] * 8, [0] * 8, scores[3].tolist()]
    assert suppress_part_queries(scores, [None] * 8) is scores


def test_each_pixel_shows_the_best_part_of_its_own_class() -> None:
    segments = torch.tensor([[0, 5, 5], [5, 2, 2], [9, 9, 2]], dtype=torch.int32)
    info = [
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
    found = part_segmentation(segments, info, scores, OWNERS)
    assert found.dtype == torch.int32
    # Between equal scores the first part is taken.
    assert found.tolist() == [[0, 1, 2], [1, 2, 1], [0, 0, 2]]


def test_two_segments_of_a_class_and_an_empty_map() -> None:
    segments = torch.tensor([[1, 2]], dtype=torch.int32)
    info = [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 0}]
    scores = torch.zeros(8, 1, 2, dtype=torch.long)
    scores[5, 0, 1] = 1
    assert part_segmentation(segments, info, scores, OWNERS).tolist() == [[1, 2]]
    assert part_segmentation(torch.zeros(1, 2).int(), [], scores, OWNERS).tolist() == [[0, 0]]
