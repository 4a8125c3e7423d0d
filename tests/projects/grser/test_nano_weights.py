"""Packaged weights on held-out groups of the picture book."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("grser")

from hipie import Segmenter
from hipie.data.picturebook import PictureBook

CONFIGURATION = Path(__file__).parents[3] / "projects/GRSer/configs/grser_nano_picturebook.yaml"
GROUPS = range(6)


def test_held_out_groups_are_segmented_and_negatives_rejected() -> None:
    segmenter = Segmenter.from_config(str(CONFIGURATION))
    ious, rejected = [], []
    for number in GROUPS:
        group = PictureBook(0, "val").group(number)
        images = [page.image for page in group.pages]
        results = segmenter.refer_group(images, group.text, heatmaps=number == 0)
        if number == 0:
            for result in results:
                heatmaps = result.heatmaps
                assert heatmaps.language.shape == (12, 12) and heatmaps.visual.shape == (8, 12, 12)
                assert set(heatmaps.sources) == set(range(len(images)))
        else:
            assert all(result.heatmaps is None for result in results)
        for page, targets, result in zip(group.pages, group.targets, results, strict=True):
            mask, target = result.masks.any(0), page.mask(*targets)
            if target.any():
                ious.append((mask & target).sum() / (mask | target).sum())
            else:
                rejected.append(not mask.any())
    assert np.mean(ious) > 0.45 and np.mean(rejected) > 0.6
    assert len(ious) > 5 and len(rejected) > 5


def test_weights_of_another_group_size_are_rejected() -> None:
    message = (
        r'nano_picturebook.pth: "triphasic_head\.output_projection\.weight" .*112x117x1x1 in this'
    )
    with pytest.raises(ValueError, match=message):
        Segmenter.from_config(str(CONFIGURATION), opts=["MODEL.GRSER.GROUP_SIZE", 4])
