"""Folders of DINO and Stable Diffusion that others distribute."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf

from hipie_training_free.error import TrainingFreeError
from hipie_training_free.modeling.dino import load_dino
from hipie_training_free.modeling.stable_diffusion import load_diffusion

SHAPES = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of timm with a classifier, as the hub has them."""
    network = timm.create_model("vit_tiny_patch16_224", num_classes=3, **SHAPES)
    save_for_hf(network, tmp_path, model_args=SHAPES)
    return tmp_path


def change(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def test_folder_of_timm_is_read_without_torchs_unpickler(folder, monkeypatch) -> None:
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    monkeypatch.setattr(torch, "load", None)
    network = load_dino(str(folder))
    assert len(network.state_dict()) == len(state) - 2
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "os.system"}, "names no architecture"),
        ({"architecture": ["a"]}, "names no architecture"),
        ({"model_args": {**SHAPES, "depth": 10**7}}, "depth"),
        ({"model_args": {**SHAPES, "pretrained_cfg_overlay": {"url": "x"}}}, "is not read"),
        ({"model_args": {**SHAPES, "embed_dim": "a"}}, "no vision transformer"),
        ({"model_args": {**SHAPES, "embed_dim": 48}}, "in the file and"),
        ({"architecture": "resnet18", "model_args": {}}, "no vision transformer"),
    ],
)
def test_other_configurations_are_refused(folder: Path, changes: dict, message: str) -> None:
    change(folder, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_dino(str(folder))
    assert "\n" not in str(error.value)


def test_pipelines_of_other_libraries_are_refused(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("diffusers")
    package = tmp_path / "own_parts.py"
    package.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["own_parts", "Unet"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(TrainingFreeError, match="unet from own_parts, .* refused"):
        load_diffusion(str(tmp_path))
    assert not (tmp_path / "ran").exists()
