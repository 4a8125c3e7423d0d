"""Features of images, masks and names against open_clip; what they must not depend on."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.masked_attention_pooling import (
    embed,
    encode,
    has_class_token,
    patches_under,
    project,
)
from hipie.modeling.open_vocabulary.prompt_templates import templates


def test_the_feature_of_a_full_mask_is_the_images_own(clip, image, masks):
    whole = clip.image_features(image[None])[0]
    assert torch.allclose(clip.mask_features(image, masks)[0], whole, atol=1e-6)
    pixels = clip.prepare(image[None])
    library = F.normalize(clip.model.encode_image(pixels), dim=-1)[0]
    assert torch.allclose(whole, library, atol=1e-6)


def test_a_masks_feature_does_not_depend_on_the_other_masks(clip, image, masks):
    together = clip.mask_features(image, masks)
    order = torch.tensor([2, 0, 3, 1, 1])
    shuffled = clip.mask_features(image, masks[order])
    assert torch.allclose(shuffled, together[order], atol=1e-6)
    for i in range(len(masks)):
        assert torch.allclose(
            clip.mask_features(image, masks[i : i + 1])[0], together[i], atol=1e-6
        )
    assert (together[1] - together[2]).abs().max() > 1e-3, "masks must matter"


def test_a_masks_feature_at_the_first_block_sees_only_its_patches(clip, image):
    """With one block, what is outside the mask cannot reach the mask's token."""
    one_block = open_clip.transformer.VisionTransformer(
        image_size=32, patch_size=8, width=32, layers=1, heads=4, mlp_ratio=2.0, output_dim=16
    ).eval()
    picture = torch.rand(3, 32, 32)
    changed = picture.clone()
    changed[:, 8:16, 8:16] = 0.0
    visible = torch.ones(1, 4, 4, dtype=torch.bool)
    visible[0, 1, 1] = False
    with torch.no_grad():
        before = encode(one_block, picture).mask_features(visible)
        after = encode(one_block, changed).mask_features(visible)
        whole = encode(one_block, picture).image_feature - encode(one_block, changed).image_feature
    assert torch.allclose(before, after, atol=1e-6)
    assert whole.abs().max() > 1e-3


def test_masks_in_one_pass_are_copies_of_the_class_token_that_attention_masks_keep_apart(
    clip, image
):
    """The rule in the words of its paper: all tokens in one sequence, one big attention mask."""
    visual, pixels = clip.visual, clip.prepare(image[None])
    generator = torch.Generator().manual_seed(3)
    visible = torch.rand(5, 8, 8, generator=generator) > 0.6
    visible[4] = False
    patches = embed(visual, pixels)
    tokens = torch.cat([patches[:, :1].expand(1, 5, -1), patches], dim=1)
    count, length = 5, patches.shape[1]
    hidden = torch.zeros(count + length, count + length, dtype=torch.bool)
    hidden[:, :count] = True
    hidden[:count, count + 1 :] = ~visible.flatten(1)
    added = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))
    with torch.no_grad():
        for block in visual.transformer.resblocks:
            tokens = block(tokens, attn_mask=added)
        expected = project(visual, tokens[0, :count])
        found = clip.encode(image).mask_features(visible)
    assert torch.allclose(found, expected, atol=1e-5)


def test_other_grids_resize_the_table_of_places(clip, image):
    picture = clip.encode(image, (48, 96))
    assert picture.grid == (6, 12)
    assert picture.patch_features.shape == (6, 12, clip.width)
    with torch.no_grad():
        same = embed(clip.visual, clip.prepare(image[None]))
        assert torch.allclose(same, clip.visual._embeds(clip.prepare(image[None])), atol=1e-6)


def test_names_are_averaged_over_templates(clip):
    expressions = ("a photo of a {}.", "art of the {}.", "{}")
    found = clip.text_features(["cat", "zebra crossing"], expressions)
    for row, name in enumerate(("cat", "zebra crossing")):
        texts = clip.tokenizer([s.replace("{}", name) for s in expressions])
        with torch.no_grad():
            each = clip.model.encode_text(texts, normalize=True).double()
        mean = each.mean(0)
        assert torch.allclose(found[row].double(), mean / mean.norm(), atol=1e-6)
    assert len(templates("imagenet")) == 80 and len(templates("simple")) == 7


def test_a_name_is_encoded_once(clip, monkeypatch):
    read: list[int] = []
    original = clip.tokenizer
    monkeypatch.setattr(clip, "tokenizer", lambda texts: read.append(len(texts)) or original(texts))
    first = clip.text_features(["otter", "beaver", "otter"])
    assert sum(read) == 2
    second = clip.text_features(["beaver", "otter", "vole"])
    assert sum(read) == 3
    assert torch.equal(first[1], second[0]) and torch.equal(first[0], second[1])


def test_towers_without_a_class_token_look_at_crops(image, masks):
    net = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 64, "layers": (1, 1, 1, 1), "width": 8},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    ).eval()
    net.visual.image_mean, net.visual.image_std = (0.5,) * 3, (0.5,) * 3
    clip = Clip(net, open_clip.get_tokenizer("ViT-B-32"))
    assert not has_class_token(net.visual)
    found = clip.mask_features(image, masks)
    assert found.shape == (4, 16)
    whole = clip.image_features(image[None])[0]
    assert torch.allclose(found[0], whole, atol=1e-5)
    alone = clip.mask_features(image, masks[2:3])[0]
    assert torch.allclose(alone, found[2], atol=1e-5)
    outside = image.clone()
    outside[:, :30] = 0.0
    assert torch.allclose(clip.mask_features(outside, masks[2:3])[0], found[2], atol=1e-5)
    with pytest.raises(ValueError, match="no class token"):
        clip.encode(image)


def test_bfloat16_autocast_stays_near(clip, image, masks):
    exact = clip.mask_features(image, masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = clip.mask_features(image, masks)
    assert rough.dtype == torch.float32
    assert (exact * rough).sum(-1).min() > 0.99


def test_no_mask_is_no_feature_and_a_wrong_one_is_an_expression(clip, image, masks):
    assert clip.mask_features(image, masks[:0]).shape == (0, clip.width)
    empty = masks.clone()
    empty[2] = False
    with pytest.raises(ValueError, match="mask 2 is empty"):
        clip.mask_features(image, empty)
    with pytest.raises(ValueError, match=r"masks are \[4, 70, 91\].*\[N, 70, 90\]"):
        clip.mask_features(image, F.pad(masks, (0, 1)))


@pytest.mark.parametrize(
    ("names", "chosen", "said"),
    [
        ([], "one", "at least one name"),
        (["cat", " "], "one", "empty string"),
        (["cat"], "imagnet", "near ones are imagenet"),
        (["cat"], (), "at least one prompt template"),
        (["cat"], ("a photo",), "needs one"),
    ],
)
def test_words_that_cannot_be_read(clip, names, chosen, said):
    with pytest.raises(ValueError, match=said):
        clip.text_features(names, chosen)


def test_no_image(clip):
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        clip.image_features(torch.rand(3, 20, 20))


@pytest.mark.parametrize("size", [(70, 90), (64, 64), (5, 3), (480, 641)])
def test_a_patch_is_reached_by_any_of_its_pixels(size):
    masks = torch.rand(4, *size, generator=torch.Generator().manual_seed(0)) > 0.97
    expected = F.adaptive_max_pool2d(masks[None].float(), (7, 8))[0] > 0
    assert torch.equal(patches_under(masks, (7, 8)), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(patches_under(masks, (7, 8)), expected)
