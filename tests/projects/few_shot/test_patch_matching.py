"""Bidirectional matching, on synthetic features and against all permutations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hipie_fewshot.modeling.patch_features import patch_centres
from hipie_fewshot.modeling.patch_matching import MAX_MATCHES, match_patches


def permuted_features(patches=64, width=80, inside=12, seed=0):
    """Similarity of support patches to the same patches in another order, with noise."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.linalg.qr(torch.randn(width, patches, generator=generator)).Q.T
    noise = 0.05 * torch.randn(patches, width, generator=generator)
    order = torch.randperm(patches, generator=generator)
    image = F.normalize(codes[order] + noise, dim=-1)
    mask = torch.arange(patches) < inside
    return codes @ image.T, mask, order


@pytest.mark.parametrize("seed", range(4))
def test_permuted_object_patches_are_matched(seed):
    similarity, inside, order = permuted_features(seed=seed)
    assert match_patches(similarity, inside).tolist() == (order < 12).nonzero().flatten().tolist()


def test_better_half_of_many_matches_is_kept():
    similarity, inside, order = permuted_features(inside=50)
    result = match_patches(similarity, inside)
    assert len(result) == 25 < MAX_MATCHES
    own = similarity[order[result], result]
    others = [p for p in (order < 50).nonzero().flatten().tolist() if p not in result.tolist()]
    assert own.min() >= similarity[order[others], others].max()


def matches_by_enumeration(similarity, inside):
    """Match patches by trying every assignment."""

    def assigned(gains):
        if gains.shape[0] > gains.shape[1]:
            rows = max(
                permutations(range(gains.shape[0]), gains.shape[1]),
                key=lambda p: sum(gains[r, c] for c, r in enumerate(p)),
            )
            pairs = sorted(zip(rows, range(gains.shape[1])))
        else:
            columns = max(
                permutations(range(gains.shape[1]), gains.shape[0]),
                key=lambda p: sum(gains[r, c] for r, c in enumerate(p)),
            )
            pairs = list(enumerate(columns))
        return pairs

    forward = assigned(similarity[inside])
    back = assigned(similarity.T[[column for _, column in forward]])
    returns = [inside[column] for _, column in back]
    kept = [pair for pair, good in zip(forward, returns) if good] or forward
    return sorted({column for _, column in kept})


@pytest.mark.parametrize("seed", range(12))
def test_equal_to_enumeration_of_all_assignments(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-1, 1, (5, 6))
    inside = rng.random(5) > 0.5
    inside[seed % 5] = True
    result = match_patches(torch.from_numpy(similarity), torch.from_numpy(inside))
    assert result.tolist() == matches_by_enumeration(similarity, inside)


def test_all_matches_are_kept_if_none_returns_to_the_object():
    """The object's patch is matched to a patch that is more similar to the background."""
    similarity = torch.tensor([[0.5, 0.4], [0.9, 0.8]])
    assert match_patches(similarity, torch.tensor([True, False])).tolist() == [0]


def test_patch_centres_in_pixels():
    result = patch_centres(torch.tensor([0, 9, 63]), 8, 14)
    assert result.tolist() == [[7, 7], [21, 21], [105, 105]]
    assert patch_centres(torch.tensor([3]), 8, 14).tolist() == [[49, 7]]
