"""CLIP by name, from files and folders; wrong names get near ones, wrong files one sentence."""

from __future__ import annotations

import json
import pickle

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from hipie.modeling.open_vocabulary import clip_loading
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_loading import _TINY, load_clip


@pytest.mark.parametrize(
    ("model", "weights", "said"),
    [
        ("ViT-L-14-337", "openai", "near ones are ViT-L-14-336"),
        ("random:ViT-B-23", "", "near ones are .*ViT-B-32"),
        ("ViT-B-16", "opnai", "near ones are openai"),
        ("ViT-B-16", "", "needs weights: one of openai"),
        ("hf-hub:timm/x", "openai", "brings weights of its own"),
    ],
)
def test_unknown_names(model, weights, said):
    with pytest.raises(ValueError, match=said):
        load_clip(model, weights)


def test_random_weights_are_the_same_every_time():
    state = torch.random.get_rng_state()
    one, two = load_clip("random:tiny")[0], load_clip("random:tiny")[0]
    assert torch.equal(one.visual.proj, two.visual.proj)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "clip"
    made.mkdir()
    (made / "open_clip_config.json").write_text(json.dumps({"model_cfg": _TINY}))
    net = open_clip.CLIP(**_TINY)
    save_file(net.state_dict(), made / "open_clip_model.safetensors")
    return made, net


def test_a_folder(folder):
    made, net = folder
    clip = Clip.from_source(str(made))
    assert torch.equal(clip.visual.proj, net.visual.proj)
    assert clip.text_features(["cat"]).shape == (1, 48)
    assert clip.image_features(torch.rand(1, 3, 30, 40)).shape == (1, 48)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ValueError, match="no open_clip_config.json"):
        load_clip(str(tmp_path))


def test_a_file_that_would_run_code_is_refused(folder):
    made, _ = folder
    (made / "open_clip_model.safetensors").unlink()
    with open(made / "open_clip_pytorch_model.bin", "wb") as file:
        pickle.dump({"state_dict": print}, file)
    with pytest.raises(ValueError, match="refused|could not be loaded"):
        load_clip(str(made))


def test_openai_weights_get_the_activation_that_they_were_trained_with(monkeypatch):
    asked = {}

    def create(model, **options):
        asked.update(options, model=model)
        return open_clip.CLIP(**_TINY)

    monkeypatch.setattr(open_clip, "create_model", create)
    monkeypatch.setattr(clip_loading, "_require_reachable", lambda *_: None)
    load_clip("ViT-L-14-336", "openai")
    assert asked["model"] == "ViT-L-14-336-quickgelu"
    assert asked["weights_only"] is True
    load_clip("ViT-B-16", "laion2b_s34b_b88k")
    assert asked["model"] == "ViT-B-16"


def test_a_hub_that_does_not_answer_is_one_quick_expression(monkeypatch):
    monkeypatch.setattr(clip_loading.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(clip_loading, "try_to_load_from_cache", lambda *_: None)
    for model, weights in (("ViT-B-16", "openai"), ("hf-hub:some/clip", "")):
        with pytest.raises(ValueError, match="hub cannot be asked for them .*refused"):
            load_clip(model, weights)
