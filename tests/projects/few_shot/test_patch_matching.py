"""Matching there and back, on planted features and against all permutations."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hipie_fewshot.modeling.patch_matching import MANY, matched_patches, patch_centres


def planted(patches=64, width=80, inside=12, seed=0):
    """An image whose first patches are the example's object, shuffled; the rest is noise."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.linalg.qr(torch.randn(width, patches, generator=generator)).Q.T
    noise = 0.05 * torch.randn(patches, width, generator=generator)
    order = torch.randperm(patches, generator=generator)
    image = F.normalize(codes[order] + noise, dim=-1)
    mask = torch.arange(patches) < inside
    return codes @ image.T, mask, order


@pytest.mark.parametrize("seed", range(4))
def test_planted_patches_are_found(seed):
    similarity, inside, order = planted(seed=seed)
    assert matched_patches(similarity, inside).tolist() == (order < 12).nonzero().flatten().tolist()


def test_of_many_matches_the_better_half_stays():
    similarity, inside, order = planted(inside=50)
    found = matched_patches(similarity, inside)
    assert len(found) == 25 < MANY
    own = similarity[order[found], found]
    others = [p for p in (order < 50).nonzero().flatten().tolist() if p not in found.tolist()]
    assert own.min() >= similarity[order[others], others].max()


def slow(similarity, inside):
    """The rule in words, with every assignment tried."""

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
    home = [inside[column] for _, column in back]
    kept = [pair for pair, good in zip(forward, home) if good] or forward
    return sorted({column for _, column in kept})


@pytest.mark.parametrize("seed", range(12))
def test_against_all_permutations(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-1, 1, (5, 6))
    inside = rng.random(5) > 0.5
    inside[seed % 5] = True
    found = matched_patches(torch.from_numpy(similarity), torch.from_numpy(inside))
    assert found.tolist() == slow(similarity, inside)


def test_if_none_comes_home_all_stay():
    """The object's patch goes to a patch that is more like the rest of the example."""
    similarity = torch.tensor([[0.5, 0.4], [0.9, 0.8]])
    assert matched_patches(similarity, torch.tensor([True, False])).tolist() == [0]


def test_centres_of_patches():
    found = patch_centres(torch.tensor([0, 9, 63]), 8, 14)
    assert found.tolist() == [[7, 7], [21, 21], [105, 105]]
    assert patch_centres(torch.tensor([3]), 8, 14).tolist() == [[49, 7]]
