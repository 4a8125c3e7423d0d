"""Loading of CLIP by name, from files and folders, and the errors for wrong ones."""

from __future__ import annotations

import json
import pickle

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from hipie.modeling import hub
from hipie.modeling.open_vocabulary import clip_loading
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_loading import _TINY, load_clip
from hipie.modeling.open_vocabulary.error import OpenVocabularyError

SMALL = {**_TINY, "quick_gelu": False}


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("ViT-L-14-337", "openai", "similar names are ViT-L-14-336"),
        ("random:ViT-B-23", "", "similar names are .*ViT-B-32"),
        ("ViT-B-16", "opnai", "similar names are openai"),
        ("ViT-B-16", "", "needs weights: one of openai"),
        ("hf-hub:timm/x", "openai", "includes weights"),
    ],
)
def test_unknown_names_are_reported(model, weights, message):
    with pytest.raises(ValueError, match=message):
        load_clip(model, weights)


def test_random_weights_are_deterministic():
    state = torch.random.get_rng_state()
    one, two = load_clip("random:tiny")[0], load_clip("random:tiny")[0]
    assert torch.equal(one.visual.proj, two.visual.proj)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "clip"
    path.mkdir()
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": _TINY}))
    net = open_clip.CLIP(**_TINY)
    save_file(net.state_dict(), path / "open_clip_model.safetensors")
    return path, net


def test_folder_is_loaded(folder):
    path, net = folder
    clip = Clip.from_source(str(path))
    assert torch.equal(clip.visual.proj, net.visual.proj)
    assert clip.text_features(["cat"]).shape == (1, 48)
    assert clip.image_features(torch.rand(1, 3, 30, 40)).shape == (1, 48)


def test_folder_without_config_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="no open_clip_config.json"):
        load_clip(str(tmp_path))


def test_file_with_code_is_refused(folder):
    path, _ = folder
    (path / "open_clip_model.safetensors").unlink()
    with open(path / "open_clip_pytorch_model.bin", "wb") as file:
        pickle.dump({"state_dict": print}, file)
    with pytest.raises(ValueError, match="refused|could not be loaded"):
        load_clip(str(path))


def test_openai_weights_use_quickgelu(tmp_path, monkeypatch):
    names = []

    def create(model, **_):
        names.append(model)
        return open_clip.CLIP(**_TINY)

    torch.save(open_clip.CLIP(**_TINY).state_dict(), tmp_path / "downloaded.bin")
    monkeypatch.setattr(
        open_clip.pretrained, "download_pretrained", lambda _: str(tmp_path / "downloaded.bin")
    )
    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr(clip_loading, "_check_download", lambda *_: None)
    load_clip("ViT-L-14-336", "openai")
    load_clip("ViT-B-16", "laion2b_s34b_b88k")
    assert names == ["ViT-L-14-336-quickgelu", "ViT-B-16"]


def test_unreachable_hub_is_reported(monkeypatch):
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: None)
    for model, weights in (("ViT-B-16", "openai"), ("hf-hub:some/clip", "")):
        with pytest.raises(ValueError, match="hub cannot be reached .*refused"):
            load_clip(model, weights)


@pytest.fixture
def small_models(tmp_path, monkeypatch):
    """Small models that open_clip knows by name: one, the same with QuickGELU, a wider one."""
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", [])
    wide = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "width": 96}}
    configs = {"small": SMALL, "small-quickgelu": {**SMALL, "quick_gelu": True}, "wide": wide}
    for name, config in configs.items():
        open_clip.factory._MODEL_CONFIGS[name] = config
    return configs


@pytest.mark.parametrize("form", ["open_clip", "module.", "safetensors", "torchscript"])
def test_file_is_loaded_in_every_form(tmp_path, small_models, form):
    net = open_clip.CLIP(**SMALL)
    file = tmp_path / "clip.pt"
    if form == "torchscript":
        net.register_buffer("input_resolution", torch.tensor(64))
        inputs = torch.rand(1, 3, 64, 64), torch.ones(1, 77, dtype=torch.long)
        torch.jit.save(torch.jit.trace(net.eval(), inputs, check_trace=False), str(file))
    elif form == "safetensors":
        file = tmp_path / "clip.safetensors"
        save_file(net.state_dict(), file)
    else:
        prefix = form if form == "module." else ""
        state = {f"{prefix}{key}": value for key, value in net.state_dict().items()}
        torch.save({"state_dict": state, "epoch": 1}, file)
    loaded, tokenize = load_clip("small", str(file))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, net.state_dict()[name])
    activation = type(loaded.visual.transformer.resblocks[0].mlp.gelu).__name__
    assert activation == ("QuickGELU" if form == "torchscript" else "GELU")
    assert tokenize(["a"]).shape == (1, 77)


def test_file_of_another_model_is_named(tmp_path, small_models):
    torch.save(open_clip.CLIP(**small_models["wide"]).state_dict(), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="these are weights of CLIP wide, and the model is small"):
        load_clip("small", str(tmp_path / "x.pt"))
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "y.pt")
    with pytest.raises(ValueError, match="these are not weights of CLIP small"):
        load_clip("small", str(tmp_path / "y.pt"))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"text_cfg": {"hf_model_name": "./", "trust_remote_code": True}}, "hf_model_name"),
        ({"text_cfg": {**_TINY["text_cfg"], "tokenizer_kwargs": {}}}, "tokenizer_kwargs"),
        ({"vision_cfg": {"timm_model_name": "x"}}, "timm_model_name"),
        ({"trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_configurations_that_name_other_networks_are_refused(folder, change, key):
    path, _ = folder
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**_TINY, **change}}))
    (path / "modeling.py").write_text("raise SystemExit('code of the folder ran')")
    with pytest.raises(ValueError, match=f'has the key "{key}", .* refused'):
        load_clip(str(path))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_bin_files_of_folders_are_read_without_torchs_unpickler(folder, monkeypatch, legacy):
    path, net = folder
    (path / "open_clip_model.safetensors").unlink()
    state = {"state_dict": net.state_dict(), "epoch": 1}
    file = path / "open_clip_pytorch_model.bin"
    torch.save(state, file, _use_new_zipfile_serialization=not legacy)
    monkeypatch.setattr(torch, "load", None)
    clip, _ = load_clip(str(path))
    for name, value in clip.state_dict().items():
        assert torch.equal(value, net.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision_cfg": {**_TINY["vision_cfg"], "layers": 10**9}}, "layers"),
        ({"text_cfg": {**_TINY["text_cfg"], "width": 10**400}}, "width"),
        ({"embed_dim": float("nan")}, "embed_dim"),
        ({"vision_cfg": {**_TINY["vision_cfg"], "width": 65536}}, "describes .* weights"),
        ({"vision_cfg": {**_TINY["vision_cfg"], "width": -64}}, "does not describe a network"),
        ({"vision_cfg": {**_TINY["vision_cfg"], "head_width": 0}}, "does not describe a network"),
        ({"vision_cfg": {**_TINY["vision_cfg"], "layers": "three"}}, "does not describe a network"),
        ({"vision_cfg": 5}, "vision_cfg"),
        ({"text_cfg": None}, "text_cfg"),
        ({"text_cfg": []}, "text_cfg"),
    ],
)
def test_numbers_of_configurations_are_bounded_before_memory_is_taken(folder, change, message):
    path, _ = folder
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**_TINY, **change}}))
    with pytest.raises(OpenVocabularyError, match=message) as error:
        load_clip(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
