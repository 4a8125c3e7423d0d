"""Fixtures: small networks with generated weights, and inputs with known segmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("hipie_training_free")
pytest.importorskip("open_clip")

from tests.projects.training_free.ruled import fill_from_names, normal_tensor, unit_tensor

COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="session")
def authors() -> dict[str, torch.Tensor]:
    """Stored outputs of the authors' programs; see the project's README."""
    with np.load(Path(__file__).parent / "data/authors.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="session")
def clip():
    """CLIP for 64 pixels with patches of 8, 3 blocks of width 64; tests must not change it."""
    from hipie.modeling.open_vocabulary.clip import Clip

    built = Clip.from_source("random:tiny")
    fill_from_names(built.model.visual)
    return built


@pytest.fixture(scope="session")
def text() -> torch.Tensor:
    return unit_tensor("text", 5, 48)


@pytest.fixture
def pixels() -> torch.Tensor:
    """Normalised image of CLIP's size."""
    return normal_tensor("pixels", 1, 3, 64, 64)


@pytest.fixture(scope="session")
def dino():
    """DINO for 64 pixels with patches of 8, 2 blocks of width 48; tests must not change it."""
    from hipie_training_free.modeling.dino import Dino

    built = Dino.from_source("random:tiny")
    fill_from_names(built.network)
    return built


@pytest.fixture
def planted():
    """CLIP whose patch features are the colours, with text features of their names.

    Red, green and blue are orthogonal codes of the patches; attention is sharp among equal codes,
    values and projections are identities, and the MLPs are zero.
    """
    from hipie.modeling.open_vocabulary.clip import Clip

    built = Clip.from_source("random:tiny")
    visual = built.model.visual
    codes = torch.zeros(3, 64)
    for index in range(3):
        codes[index, 16 * index : 16 * (index + 1)] = 1
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
    features = torch.nn.functional.normalize(codes[:, :48], dim=1)
    built.text_features = lambda names, templates="one": features[[COLOURS.index(n) for n in names]]
    return built


@pytest.fixture
def three_colours() -> tuple[torch.Tensor, torch.Tensor]:
    """Image [3, 64, 96] of three colours, and the index of each pixel's in COLOURS."""
    index = torch.zeros(64, 96, dtype=torch.long)
    index[:32, 40:] = 1
    index[32:, 16:64] = 2
    return torch.eye(3)[index].permute(2, 0, 1), index


@pytest.fixture(params=[2, 3], ids=["two regions", "three regions"])
def regions(request) -> tuple[torch.Tensor, np.ndarray]:
    """Features [P, 32] of a 12x14 grid of two or three regions with noise, and the regions."""
    regions_of_patches = np.zeros((12, 14), int)
    regions_of_patches[2:9, 2:6] = 1
    if request.param == 3:
        regions_of_patches[4:11, 8:13] = 2
    codes = unit_tensor("regions", 3, 32)
    return codes[regions_of_patches.ravel()] + 0.05 * normal_tensor(
        "grain", 12 * 14, 32
    ), regions_of_patches


@pytest.fixture(scope="session")
def configs() -> Path:
    return Path(__file__).parents[3] / "projects/TrainingFree/configs"
