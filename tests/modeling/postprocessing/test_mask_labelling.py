"""Classes of masks, compared with values computed by hand."""

from __future__ import annotations

import torch

from hipie.modeling.postprocessing.mask_labelling import classify_masks, non_overlapping_segments


def test_class_with_the_largest_sum_over_the_pixels() -> None:
    scores = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    masks = torch.rand(4, 5, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    classes, shares = classify_masks(masks, scores)
    for i in range(4):
        sums = [float(scores[k][masks[i]].double().sum()) for k in range(3)]
        assert int(classes[i]) == sums.index(max(sums))
        assert abs(float(shares[i]) - max(sums) / sum(sums)) < 1e-6


def test_small_masks_take_precedence_and_stuff_is_merged() -> None:
    masks = torch.zeros(4, 4, 6, dtype=torch.bool)
    masks[0] = True  # stuff, everything
    masks[1, :2, :2] = True  # thing
    masks[2, 3:, :3] = True  # the same stuff
    masks[3, :2, :2] = True  # equal to the thing's mask, processed after it
    segments = non_overlapping_segments(
        masks, torch.tensor([1, 0, 1, 0]), torch.tensor([0.4, 0.5, 0.7, 0.6]), [1, 0]
    )
    assert [(label, round(score, 2)) for label, score, _ in segments] == [(1, 0.7), (0, 0.6)]
    total = torch.stack([mask for _, _, mask in segments]).sum(0)
    assert (total == 1).all()
    assert torch.equal(segments[1][2], masks[3])
    assert segments[0][2].sum() == 20
