"""Configurations and weights by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hipie import model_zoo
from hipie.checkpoint import save_weights

ROOT = Path(__file__).parents[2]
NANO = "nano/hipie_nano_picturebook.yaml"


def test_names_are_the_configurations_and_not_their_bases():
    names = model_zoo.names()
    assert NANO in names
    assert names == sorted(names)
    assert not any("Base" in name for name in names)


@pytest.mark.parametrize(
    "name", [NANO, NANO.removesuffix(".yaml"), "hipie_nano_picturebook", f"configs/{NANO}"]
)
def test_every_form_of_a_name_gives_the_configuration(name, in_tmp):
    assert model_zoo.get_config_file(name) == model_zoo.CONFIGS / NANO


@pytest.mark.parametrize("name", ["grser/grser_swin_b.yaml", "grser/grser_swin_b", "grser_swin_b"])
def test_projects_have_configurations_by_name(name, in_tmp):
    file = model_zoo.get_config_file(name)
    assert file.samefile(ROOT / "projects/GRSer/configs/grser_swin_b.yaml")


def test_a_name_in_two_folders_is_an_error(in_tmp):
    with pytest.raises(ValueError, match=r"is ambiguous: eval/hipie_r50_parts\.yaml or universal/"):
        model_zoo.get_config_file("hipie_r50_parts")
    assert model_zoo.get_config_file("universal/hipie_r50_parts").is_file()


def test_every_configuration_of_a_project_has_a_name():
    stored = {file.name for file in ROOT.glob("projects/*/configs/**/*.yaml")}
    named = {name.rpartition("/")[2] for name in model_zoo.names()}
    assert {name for name in stored if not name.startswith("Base-")} <= named


def test_a_file_is_its_own_configuration(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("VERSION: 2\n")
    assert model_zoo.get_config_file(str(own)) == own


@pytest.mark.parametrize("name", ["nano/hipie_nan_picturbook", "", "zzz", "nano"])
def test_an_unknown_name_is_an_error_with_near_names(name, in_tmp):
    with pytest.raises(ValueError, match=NANO) as caught:
        model_zoo.get_config_file(name)
    assert f'"{name}"' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", model_zoo.names())
def test_every_configuration_merges(name):
    cfg = model_zoo.get_config(name)
    assert cfg.MODEL.META_ARCHITECTURE
    assert cfg.MODEL.HIPIE.HIDDEN_DIM % cfg.MODEL.HIPIE.THINGS.NUM_HEADS == 0


def test_packaged_weights_are_registered_by_configuration(tmp_path, monkeypatch):
    assert model_zoo.get_weights(NANO) == model_zoo.WEIGHTS / "hipie_nano_picturebook.pth"
    assert model_zoo.get_weights(str(ROOT / "configs" / NANO)) == model_zoo.get_weights(NANO)
    own = tmp_path / "hipie_nano_picturebook.yaml"
    own.write_text("VERSION: 2\n")
    assert model_zoo.get_weights(str(own)) is None
    monkeypatch.setitem(model_zoo._weights_of, NANO, tmp_path / "missing.pth")
    assert model_zoo.get_weights(NANO) is None
    with pytest.raises(ValueError, match="no weights for nano/"):
        model_zoo.get(NANO)


def test_get_loads_the_registered_weights(tmp_path, monkeypatch):
    model = model_zoo.get(NANO, trained=False)
    assert not model.training
    name, parameter = next(
        (name, value)
        for name, value in model.named_parameters()
        if name.startswith("things") and value.dim() > 1
    )
    with torch.no_grad():
        parameter.fill_(0.5)
    file = tmp_path / "own.safetensors"
    save_weights(model, file)
    assert file.stat().st_size < 40 * 2**20
    monkeypatch.setattr(model_zoo, "_weights_of", {})
    model_zoo.register_weights(NANO, file)
    loaded = model_zoo.get(NANO)
    assert dict(loaded.named_parameters())[name].unique().tolist() == [0.5]


def test_configurations_for_a_task():
    assert NANO in model_zoo.configs_for_task("referring")
    assert NANO not in model_zoo.configs_for_task("juggling")
    (group,) = model_zoo.configs_for_task("group", trained=True)
    assert group == "grser/grser_nano_picturebook.yaml"
    assert model_zoo.get_weights(group).parent.name == "weights"
    assert len(model_zoo.configs_for_task("group")) > 1
