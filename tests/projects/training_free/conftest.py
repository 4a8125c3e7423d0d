"""Small networks with weights by rule, a tower with a planted code, and regions of patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("hipie_training_free")
pytest.importorskip("open_clip")

from tests.projects.training_free.ruled import numbers, rule, unit

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="session")
def authors() -> dict[str, torch.Tensor]:
    """What the authors' own programs answered; see the project's README."""
    with np.load(Path(__file__).parent / "data/authors.npz") as kept:
        return {name: torch.from_numpy(kept[name]) for name in kept.files}


@pytest.fixture(scope="session")
def clip():
    """64 pixels, patches of 8, 3 blocks of width 64; nobody may change it."""
    from hipie.modeling.open_vocabulary.clip import Clip

    built = Clip.from_source("random:tiny")
    rule(built.model.visual)
    return built


@pytest.fixture(scope="session")
def text() -> torch.Tensor:
    return unit("text", 5, 48)


@pytest.fixture
def pixels() -> torch.Tensor:
    """One normalised image of CLIP's size."""
    return numbers("pixels", 1, 3, 64, 64)


@pytest.fixture(scope="session")
def dino():
    """64 pixels, patches of 8, 2 blocks of width 48; nobody may change it."""
    from hipie_training_free.modeling.dino import Dino

    built = Dino.from_source("random:tiny")
    rule(built.network)
    return built


@pytest.fixture
def planted():
    """A CLIP whose tower carries the colour of each patch to the end, and its names.

    Red, green and blue are orthogonal codes of the patches; attention is sharp among equal ones,
    values and projections pass them on, the MLPs say nothing.
    """
    from hipie.modeling.open_vocabulary.clip import Clip

    built = Clip.from_source("random:tiny")
    visual = built.model.visual
    codes = torch.zeros(3, 64)
    for place in range(3):
        codes[place, 16 * place : 16 * (place + 1)] = 1
    with torch.no_grad():
        visual.conv1.weight.copy_(codes.t()[:, :, None, None].expand(64, 3, 8, 8) / 64)
        visual.class_embedding.zero_()
        visual.positional_embedding.zero_()
        visual.proj.copy_(torch.eye(64)[:, :48])
        for block in visual.transformer.resblocks:
            eye = torch.eye(64)
            block.attn.in_proj_weight.copy_(torch.cat([3 * eye, 3 * eye, eye]))
            block.attn.in_proj_bias.zero_()
            block.attn.out_proj.weight.copy_(eye)
            block.attn.out_proj.bias.zero_()
            block.mlp.c_proj.weight.zero_()
            block.mlp.c_proj.bias.zero_()
    table = torch.nn.functional.normalize(codes[:, :48], dim=1)
    built.text_features = lambda names, chosen="one": table[[COLOURS.index(n) for n in names]]
    return built


@pytest.fixture
def flag() -> tuple[torch.Tensor, torch.Tensor]:
    """An image [3, 64, 96] of three colours, and the place of each pixel's in COLOURS."""
    place = torch.zeros(64, 96, dtype=torch.long)
    place[:32, 40:] = 1
    place[32:, 16:64] = 2
    return torch.eye(3)[place].permute(2, 0, 1), place


@pytest.fixture(params=[2, 3], ids=["two regions", "three regions"])
def regions(request) -> tuple[torch.Tensor, np.ndarray]:
    """Features [P, 32] of a 12 by 14 grid of two or three regions with noise, and the truth."""
    truth = np.zeros((12, 14), int)
    truth[2:9, 2:6] = 1
    if request.param == 3:
        truth[4:11, 8:13] = 2
    codes = unit("regions", 3, 32)
    return codes[truth.ravel()] + 0.05 * numbers("grain", 12 * 14, 32), truth


@pytest.fixture(scope="session")
def configs() -> Path:
    return Path(__file__).parents[3] / "projects/TrainingFree/configs"
