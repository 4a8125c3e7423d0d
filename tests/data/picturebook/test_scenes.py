from __future__ import annotations

import numpy as np
import pytest

from hipie.data.picturebook.classes import STUFF
from hipie.data.picturebook.scenes import LAYOUTS, make_scene


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("size", [(330, 400), (480, 320)])
def test_a_scene_always_has_the_stuff_it_promises(name: str, size: tuple[int, int]) -> None:
    for seed in range(4):
        scene = make_scene(np.random.default_rng(seed), name, *size)
        kinds = {STUFF[i].name for i in np.unique(scene.stuff)}
        assert set(LAYOUTS[name][2]) <= kinds
        assert scene.stuff.shape == size[::-1] and scene.canvas.shape == (*size[::-1], 3)
        assert np.isfinite(scene.canvas).all()
        assert scene.canvas.std() > 5


def test_every_kind_of_stuff_is_somewhere() -> None:
    stuff_names = set()
    for number, name in enumerate(LAYOUTS):
        for seed in range(6):
            scene = make_scene(np.random.default_rng([number, seed]), name, 320, 320)
            stuff_names |= {STUFF[i].name for i in np.unique(scene.stuff)}
    assert stuff_names == {stuff.name for stuff in STUFF}
