"""CLIP features of images, masks and class names, compared with open_clip."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.open_vocabulary import clip as clip_module
from hipie.modeling.open_vocabulary.clip import Clip, encode_texts
from hipie.modeling.open_vocabulary.masked_attention_pooling import (
    embed,
    encode,
    has_class_token,
    patches_of_masks,
    project,
)
from hipie.modeling.open_vocabulary.prompt_templates import prompt_templates


def test_feature_of_a_full_mask_is_the_image_feature(clip, image, masks):
    whole = clip.image_features(image[None])[0]
    assert torch.allclose(clip.mask_features(image, masks)[0], whole, atol=1e-6)
    pixels = clip.prepare(image[None])
    library = F.normalize(clip.model.encode_image(pixels), dim=-1)[0]
    assert torch.allclose(whole, library, atol=1e-6)


def test_mask_feature_does_not_depend_on_other_masks(clip, image, masks):
    batched = clip.mask_features(image, masks)
    order = torch.tensor([2, 0, 3, 1, 1])
    shuffled = clip.mask_features(image, masks[order])
    assert torch.allclose(shuffled, batched[order], atol=1e-6)
    for i in range(len(masks)):
        assert torch.allclose(clip.mask_features(image, masks[i : i + 1])[0], batched[i], atol=1e-6)
    assert (batched[1] - batched[2]).abs().max() > 1e-3, "masks must matter"


def test_mask_feature_of_one_block_depends_on_its_patches_only(clip, image):
    """With one block, pixels outside the mask cannot influence the mask's token."""
    one_block = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=8, width=32, layers=1, heads=4, mlp_ratio=2.0, output_dim=16
    ).eval()
    original = torch.rand(3, 32, 32)
    changed = original.clone()
    changed[:, 8:16, 8:16] = 0.0
    patch_masks = torch.ones(1, 4, 4, dtype=torch.bool)
    patch_masks[0, 1, 1] = False
    with torch.no_grad():
        before = encode(one_block, original).mask_features(patch_masks)
        after = encode(one_block, changed).mask_features(patch_masks)
        difference = (
            encode(one_block, original).image_feature - encode(one_block, changed).image_feature
        )
    assert torch.allclose(before, after, atol=1e-6)
    assert difference.abs().max() > 1e-3


def test_mask_features_equal_class_token_copies_with_an_attention_mask(clip, image):
    """MaskCLIP as in its paper: all tokens in one sequence with one attention mask."""
    visual, pixels = clip.visual, clip.prepare(image[None])
    generator = torch.Generator().manual_seed(3)
    patch_masks = torch.rand(5, 8, 8, generator=generator) > 0.6
    patch_masks[4] = False
    patches = embed(visual, pixels)
    tokens = torch.cat([patches[:, :1].expand(1, 5, -1), patches], dim=1)
    count, length = 5, patches.shape[1]
    hidden = torch.zeros(count + length, count + length, dtype=torch.bool)
    hidden[:, :count] = True
    hidden[:count, count + 1 :] = ~patch_masks.flatten(1)
    added = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    with torch.no_grad():
        for block in visual.transformer.resblocks:
            tokens = block(tokens, attn_mask=added)
        expected = project(visual, tokens[0, :count])
        features = clip.encode(image).mask_features(patch_masks)
    assert torch.allclose(features, expected, atol=1e-5)


def test_position_embeddings_are_resized_for_other_grids(clip, image):
    encoded = clip.encode(image, (48, 96))
    assert encoded.grid == (6, 12)
    assert encoded.patch_features.shape == (6, 12, clip.width)
    with torch.no_grad():
        same = embed(clip.visual, clip.prepare(image[None]))
        assert torch.allclose(same, clip.visual._embeds(clip.prepare(image[None])), atol=1e-6)


def test_text_features_are_averaged_over_templates(clip):
    templates = ("a photo of a {}.", "art of the {}.", "{}")
    features = clip.text_features(["cat", "zebra crossing"], templates)
    for row, name in enumerate(("cat", "zebra crossing")):
        texts = clip.tokenizer([template.replace("{}", name) for template in templates])
        with torch.no_grad():
            each = clip.model.encode_text(texts, normalize=True).double()
        mean = each.mean(0)
        assert torch.allclose(features[row].double(), mean / mean.norm(), atol=1e-6)
    assert len(prompt_templates("imagenet")) == 80 and len(prompt_templates("simple")) == 7


def test_name_is_encoded_once(clip, monkeypatch):
    encoded: list[int] = []
    original = clip.tokenizer
    monkeypatch.setattr(
        clip, "tokenizer", lambda texts: encoded.append(len(texts)) or original(texts)
    )
    first = clip.text_features(["otter", "beaver", "otter"])
    assert sum(encoded) == 2
    second = clip.text_features(["beaver", "otter", "vole"])
    assert sum(encoded) == 3
    assert torch.equal(first[1], second[0]) and torch.equal(first[0], second[1])


def test_name_cache_is_bounded(clip, monkeypatch):
    monkeypatch.setattr(clip_module, "MAX_CACHED_NAMES", 2)
    uncached = Clip(clip.model, clip.tokenizer)
    names = ["otter", "beaver", "vole"]
    features = uncached.text_features(names)
    assert len(uncached._name_features) == 2
    for _ in range(2 * clip_module.MAX_CACHED_LISTS):
        names = [*names, "otter"]
        assert torch.allclose(uncached.text_features(names)[:3], features, atol=1e-6)
    assert len(uncached._list_features) == clip_module.MAX_CACHED_LISTS


def test_encoders_without_class_token_use_crops(image, masks):
    net = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 64, "layers": (1, 1, 1, 1), "width": 8},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    ).eval()
    net.visual.image_mean, net.visual.image_std = (0.5,) * 3, (0.5,) * 3
    clip = Clip(net, open_clip.get_tokenizer("ViT-B-32"))
    assert not has_class_token(net.visual)
    features = clip.mask_features(image, masks)
    assert features.shape == (4, 16)
    whole = clip.image_features(image[None])[0]
    assert torch.allclose(features[0], whole, atol=1e-5)
    alone = clip.mask_features(image, masks[2:3])[0]
    assert torch.allclose(alone, features[2], atol=1e-5)
    outside = image.clone()
    outside[:, :30] = 0.0
    assert torch.allclose(clip.mask_features(outside, masks[2:3])[0], features[2], atol=1e-5)
    with pytest.raises(ValueError, match="no class token"):
        clip.encode(image)


def test_bfloat16_autocast_is_close(clip, image, masks):
    exact = clip.mask_features(image, masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = clip.mask_features(image, masks)
    assert rough.dtype == torch.float32
    assert (exact * rough).sum(-1).min() > 0.99


def test_no_masks_and_invalid_masks(clip, image, masks):
    assert clip.mask_features(image, masks[:0]).shape == (0, clip.width)
    empty = masks.clone()
    empty[2] = False
    with pytest.raises(ValueError, match="mask 2 is empty"):
        clip.mask_features(image, empty)
    with pytest.raises(ValueError, match=r"masks are \[4, 70, 91\].*\[N, 70, 90\]"):
        clip.mask_features(image, F.pad(masks, (0, 1)))


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        ([], "one", "at least one class name"),
        (["cat", " "], "one", "empty string"),
        (["cat"], "imagnet", "similar names are imagenet"),
        (["cat"], (), "at least one prompt template"),
        (["cat"], ("a photo",), "needs one"),
    ],
)
def test_invalid_names_and_templates_are_rejected(clip, names, templates, message):
    with pytest.raises(ValueError, match=message):
        clip.text_features(names, templates)


def test_image_without_batch_is_rejected(clip):
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        clip.image_features(torch.rand(3, 20, 20))


@pytest.mark.parametrize("size", [(70, 90), (64, 64), (5, 3), (480, 641)])
def test_patch_belongs_to_a_mask_with_any_of_its_pixels(size):
    masks = torch.rand(4, *size, generator=torch.Generator().manual_seed(0)) > 0.97
    expected = F.adaptive_max_pool2d(masks[None].float(), (7, 8))[0] > 0
    assert torch.equal(patches_of_masks(masks, (7, 8)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(patches_of_masks(masks, (7, 8)), expected)


def test_texts_without_padding_equal_encode_text(clip):
    long = "a very " * 60 + "long expression"
    for texts in (["cat"], ["a photo of a zebra crossing.", "dog", ""], ["cat", long]):
        ids = clip.tokenizer(texts)
        with torch.no_grad():
            expected, features = clip.model.encode_text(ids), encode_texts(clip.model, ids)
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_other_text_encoders_are_called_unchanged():
    cfg = open_clip.get_model_config("ViT-B-32")
    small = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {**cfg["text_cfg"], "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True}
    bidirectional = open_clip.CLIP(embed_dim=16, vision_cfg=small, text_cfg=text).eval()
    ids = open_clip.get_tokenizer("ViT-B-32")(["cat", "a dog"])
    with torch.no_grad():
        assert torch.equal(encode_texts(bidirectional, ids), bidirectional.encode_text(ids))
