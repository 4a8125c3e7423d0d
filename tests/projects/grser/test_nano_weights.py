"""The weights of the package find what an expression says, in the images that show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("grser")

from hipie import Segmenter
from hipie.data.picturebook import PictureBook

CONFIGURATION = Path(__file__).parents[3] / "projects/GRSer/configs/grser_nano_picturebook.yaml"
GROUPS = range(6)


def test_held_out_groups_are_answered() -> None:
    segmenter = Segmenter.from_config(str(CONFIGURATION))
    overlaps, rejected = [], []
    for number in GROUPS:
        group = PictureBook(0, "val").group(number)
        answers = segmenter.refer_group([page.image for page in group.pages], group.text)
        for page, targets, answer in zip(group.pages, group.targets, answers, strict=True):
            found, target = answer.masks.any(0), page.mask(*targets)
            if target.any():
                overlaps.append((found & target).sum() / (found | target).sum())
            else:
                rejected.append(not found.any())
    assert np.mean(overlaps) > 0.45 and np.mean(rejected) > 0.6
    assert len(overlaps) > 5 and len(rejected) > 5


def test_weights_of_groups_of_another_size_are_refused() -> None:
    said = r'grser_nano_picturebook.pth: "triphasic_head\.output_projection\.weight" has another shape than in this'
    with pytest.raises(ValueError, match=said):
        Segmenter.from_config(str(CONFIGURATION), opts=["MODEL.GRSER.GROUP_SIZE", 4])
