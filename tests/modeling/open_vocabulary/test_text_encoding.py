"""Texts without their empty places, against open_clip's own encoder."""

from __future__ import annotations

import open_clip
import torch

from hipie.modeling.open_vocabulary.text_encoding import encode_texts


def test_equals_encode_text(clip):
    long = "a very " * 60 + "long expression"
    for texts in (["cat"], ["a photo of a zebra crossing.", "dog", ""], ["cat", long]):
        ids = clip.tokenizer(texts)
        with torch.no_grad():
            expected, found = clip.model.encode_text(ids), encode_texts(clip.model, ids)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_other_towers_are_left_to_themselves():
    cfg = open_clip.get_model_config("ViT-B-32")
    small = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {**cfg["text_cfg"], "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True}
    both_ways = open_clip.CLIP(embed_dim=16, vision_cfg=small, text_cfg=text).eval()
    ids = open_clip.get_tokenizer("ViT-B-32")(["cat", "a dog"])
    with torch.no_grad():
        assert torch.equal(encode_texts(both_ways, ids), both_ways.encode_text(ids))
