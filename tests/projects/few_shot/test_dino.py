"""DINO models by name and from files, and their error messages."""

from __future__ import annotations

import pickle

import pytest
import timm
import torch

from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie_fewshot.modeling.dino import Dino

SMALL = "vit_tiny_patch16_224"


def test_features_are_taken_before_the_final_norm(dino):
    images = torch.rand(2, 3, 112, 112)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    model = dino.model
    tokens = model._pos_embed(model.patch_embed((images - mean) / std))
    for block in model.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(dino.extract_features(images), tokens[:, 1:])
    assert dino.extract_features(images).shape == (2, 64, 32)
    torch.testing.assert_close(
        model.norm(tokens), model.forward_features((images - mean) / std), atol=1e-5, rtol=1e-5
    )


def test_checkpoint_of_the_authors_is_loaded(tmp_path):
    """Such a file has a mask token, and may have another grid of position embeddings."""
    model = timm.create_model("vit_small_patch14_dinov2", pretrained=False, img_size=70)
    state = {**model.state_dict(), "mask_token": torch.zeros(1, 384)}
    torch.save(state, tmp_path / "dinov2.pth")
    same = Dino.from_source("vit_small_patch14_dinov2", str(tmp_path / "dinov2.pth"), 70)
    assert (same.patch_size, same.image_size) == (14, 70)
    assert torch.equal(same.model.blocks[3].mlp.fc1.weight, state["blocks.3.mlp.fc1.weight"])
    assert torch.equal(same.model.pos_embed, state["pos_embed"])
    larger = Dino.from_source("vit_small_patch14_dinov2", str(tmp_path / "dinov2.pth"), 98)
    assert larger.model.pos_embed.shape == (1, 50, 384)
    assert larger.extract_features(torch.rand(1, 3, 98, 98)).shape == (1, 49, 384)


def test_random_weights_are_reproducible():
    one, two = (Dino.from_source("random:tiny", size=56) for _ in range(2))
    assert torch.equal(one.model.blocks[0].attn.qkv.weight, two.model.blocks[0].attn.qkv.weight)


def test_unknown_names_and_wrong_files_are_refused(tmp_path):
    with pytest.raises(OpenVocabularyError, match="similar names are .*vit_small_patch14_dinov2"):
        Dino.from_source("vit_smal_patch14_dinov2")
    with pytest.raises(
        OpenVocabularyError, match="the size 100 is not a multiple of .* patch of 14"
    ):
        Dino.from_source("random:tiny", size=100)
    with pytest.raises(ValueError, match="none.pth: there is no such file"):
        Dino.from_source(SMALL, "none.pth", 224)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(OpenVocabularyError, match=f"other.pth: the file has no weights of {SMALL}"):
        Dino.from_source(SMALL, str(tmp_path / "other.pth"), 224)
    small = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=2).state_dict()
    torch.save(small, tmp_path / "shallow.pth")
    with pytest.raises(OpenVocabularyError, match="shallow.pth: the file has no weights"):
        Dino.from_source(SMALL, str(tmp_path / "shallow.pth"), 224)


def test_pickled_code_is_not_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (tmp_path / "trap.pth").write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(ValueError, match="trap.pth"):
        Dino.from_source(SMALL, str(tmp_path / "trap.pth"), 224)
    assert not (tmp_path / "sprung").exists()
