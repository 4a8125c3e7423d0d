"""Concatenated ground truth, matchings of a batch, and pairs of denoising queries."""

from __future__ import annotations

import torch

from hipie.modeling.matcher.matching import Matching, denoising_matching
from hipie.structures import BatchedTargets, DenoisingLayout


def test_targets_are_concatenated_image_by_image(make_batch):
    targets = make_batch([[True, False], [], [True]]).targets
    objects = BatchedTargets.concatenate(targets)
    assert len(objects) == 3 and objects.num_images == 3
    assert [objects.of_image(i) for i in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 3)]
    assert torch.equal(objects.boxes[2], targets[2].boxes[0])
    assert torch.equal(objects.masks[1], targets[0].masks[1])


def test_boxes_on_the_canvas_shrink_with_the_image(make_batch):
    batch = make_batch([[True]])
    batch.replace_target(0, image_size=(32, 48))
    targets = batch.targets
    objects = BatchedTargets.concatenate(targets, on_canvas=True)
    torch.testing.assert_close(objects.boxes, targets[0].boxes / 2)


def test_denoising_queries_are_matched_with_their_object(make_batch):
    objects = BatchedTargets.concatenate(make_batch([[True, True], [False], []]).targets)
    matching = denoising_matching(DenoisingLayout(3, 2, negatives=True), objects)
    assert matching.image_index.tolist() == [0] * 6 + [1] * 3
    assert matching.query_index.tolist() == [0, 1, 4, 5, 8, 9, 0, 4, 8]
    assert matching.target_index.tolist() == [0, 1, 0, 1, 0, 1, 2, 2, 2]


def test_matchings_keep_the_order_of_images():
    empty = torch.zeros(0, dtype=torch.long)
    pairs = [(torch.tensor([4, 6]), torch.tensor([1, 0])), (empty, empty)]
    pairs.append((torch.tensor([2]), torch.tensor([5])))
    joined = Matching.concatenate(pairs)
    assert len(joined) == 3
    assert joined.image_index.tolist() == [0, 0, 2]
    assert joined.target_index.tolist() == [1, 0, 5]
