"""Objects in one table, and the pairs that denoising knows beforehand."""

from __future__ import annotations

import torch

from hipie.modeling.criterion.batched_targets import ObjectTable
from hipie.modeling.criterion.predictions import DenoisingLayout
from hipie.modeling.matcher.matching import Matching, denoising_matching


def test_rows_follow_the_images(make_batch):
    targets = make_batch([[True, False], [], [True]]).targets
    table = ObjectTable.gather(targets)
    assert len(table) == 3 and table.num_images == 3
    assert [table.rows(i) for i in range(3)] == [slice(0, 2), slice(2, 2), slice(2, 3)]
    assert torch.equal(table.boxes[2], targets[2].boxes[0])
    assert torch.equal(table.masks[1], targets[0].masks[1])


def test_boxes_on_the_canvas_shrink_with_the_image(make_batch):
    targets = make_batch([[True]]).targets
    targets[0].image_size = (32, 48)
    table = ObjectTable.gather(targets, on_canvas=True)
    torch.testing.assert_close(table.boxes, targets[0].boxes / 2)


def test_copies_answer_for_their_object(make_batch):
    table = ObjectTable.gather(make_batch([[True, True], [False], []]).targets)
    matching = denoising_matching(DenoisingLayout(3, 2, negatives=True), table)
    assert matching.image.tolist() == [0] * 6 + [1] * 3
    assert matching.query.tolist() == [0, 1, 4, 5, 8, 9, 0, 4, 8]
    assert matching.row.tolist() == [0, 1, 0, 1, 0, 1, 2, 2, 2]


def test_joining_keeps_the_order():
    none = torch.zeros(0, dtype=torch.long)
    pairs = [(torch.tensor([4, 6]), torch.tensor([1, 0])), (none, none)]
    pairs.append((torch.tensor([2]), torch.tensor([5])))
    joined = Matching.join(pairs)
    assert len(joined) == 3
    assert joined.image.tolist() == [0, 0, 2]
    assert joined.row.tolist() == [1, 0, 5]
