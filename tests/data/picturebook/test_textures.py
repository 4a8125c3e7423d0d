from __future__ import annotations

import numpy as np
import pytest

from hipie.data.picturebook.classes import STUFF
from hipie.data.picturebook.textures import TILE, backdrop_texture, ground_texture, tile


@pytest.mark.parametrize("name", [*(stuff.name for stuff in STUFF), "wall striped"])
def test_tiles_repeat_without_a_seam(name: str) -> None:
    drawn = tile(name)
    assert drawn.shape == (TILE, TILE) and drawn.dtype == np.float32
    assert 0.05 < drawn.std() < 1.2 and abs(drawn.mean()) < 0.6
    steps = np.abs(np.diff(drawn, axis=0)).mean(1)
    seam = np.abs(drawn[0] - drawn[-1]).mean()
    assert seam <= steps.max() * 1.8 + 0.02


def test_tiles_are_shared_and_cannot_be_changed() -> None:
    assert tile("sand") is tile("sand")
    with pytest.raises(ValueError):
        tile("sand")[0, 0] = 1


def test_an_unknown_texture_is_named() -> None:
    with pytest.raises(KeyError, match="lava"):
        tile("lava")


def test_views_have_the_requested_size_and_ground_shrinks_with_distance() -> None:
    offset = np.zeros(2)
    assert backdrop_texture("wall", 50, 30, 1.0, offset).shape == (30, 50)
    ground = ground_texture("pavement", 400, 200, 1.0, offset)
    assert ground.shape == (200, 400)
    steep = np.abs(np.diff(ground, axis=0)).max(1) > 0.6
    assert steep[:60].sum() > steep[140:].sum()
