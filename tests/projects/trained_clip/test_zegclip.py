"""ZegCLIP: decoder and losses against formulas, tuning, unseen classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.vocabularies import Vocabulary
from hipie_trained_clip.modeling.criterion import zegclip_losses
from hipie_trained_clip.modeling.relationship_decoder import (
    MaskDecoderLayer,
    RelationshipDecoder,
    relationship_descriptor,
)
from tests.projects.trained_clip.conftest import fresh_clip, semantic_item


def test_descriptor_is_the_product_and_the_text():
    text, image = torch.randn(3, 4), torch.randn(4)
    descriptor = relationship_descriptor(text, image)
    for k in range(3):
        expected = [float(text[k, d] * image[d]) for d in range(4)] + text[k].tolist()
        assert descriptor[k].tolist() == pytest.approx(expected)


def test_decoder_layer_equals_its_formula():
    torch.manual_seed(0)
    layer = MaskDecoderLayer(8, 2, 12, 0.0).double().eval()
    queries, patches = torch.randn(3, 8).double(), torch.randn(5, 8).double()
    result, logits = (x[0] for x in layer(queries[None], patches[None]))
    q, k, v = layer.query(queries), layer.key(patches), layer.value(patches)
    heads = [slice(0, 4), slice(4, 8)]
    by_head = [q[:, h] @ k[:, h].t() / 2 for h in heads]
    torch.testing.assert_close(logits, (by_head[0] + by_head[1]) / 2)
    attended = torch.cat(
        [s.softmax(-1) @ v[:, h] for s, h in zip(by_head, heads, strict=True)], dim=1
    )
    x = layer.norm_attention(queries + layer.out(attended))
    expected = layer.norm_mlp(x + layer.linear_out(layer.linear_in(x).relu()))
    torch.testing.assert_close(result, expected)


def test_classes_do_not_depend_on_each_other():
    torch.manual_seed(0)
    decoder = RelationshipDecoder(8, layers=2, heads=2, dim_feedforward=8, dropout=0.0).eval()
    text, image, patches = torch.randn(4, 8), torch.randn(8), torch.randn(6, 8)
    order = torch.tensor([2, 0, 3, 1])
    logits = decoder(text, image, patches)
    torch.testing.assert_close(decoder(text[order], image, patches), logits[order])
    torch.testing.assert_close(decoder(text[:1], image, patches), logits[:1])


def test_losses_equal_sums_over_pixels():
    torch.manual_seed(0)
    logits = [torch.randn(3, 4, 5).double(), torch.randn(2, 4, 5).double()]
    targets = [torch.zeros(3, 4, 5, dtype=torch.bool), torch.zeros(2, 4, 5, dtype=torch.bool)]
    targets[0][0, :2], targets[0][2, 2:], targets[1][1, :, :3] = True, True, True
    labelled = [torch.ones(4, 5, dtype=torch.bool), torch.ones(4, 5, dtype=torch.bool)]
    labelled[1][0] = False
    losses = zegclip_losses(logits, targets, labelled, (2.0, 3.0))
    focal = dice = 0.0
    for scores, masks, valid in zip(logits, targets, labelled, strict=True):
        for k in range(len(scores)):
            p, t = scores[k].sigmoid()[valid], masks[k][valid].double()
            right = t * p + (1 - t) * (1 - p)
            alpha = 0.25 * t + 0.75 * (1 - t)
            focal += float((-alpha * (1 - right) ** 2 * right.log()).mean())
            if t.any():
                dice += float(1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    present = 3
    assert float(losses["loss_focal"]) == pytest.approx(2 * focal / present, rel=1e-5)
    assert float(losses["loss_dice"]) == pytest.approx(3 * dice / present, rel=1e-5)


@pytest.mark.parametrize("tuning", [{"kind": "adapter", "adapter_scale": 0.0}, {"kind": "lora"}])
def test_untuned_patches_are_those_of_maskclip(build, tuning):
    """Adapters of scale 0 and updates that have not been trained change nothing."""
    from hipie_training_free import MaskCLIP

    options = {"last_block": "values", "double_class_embedding": False, **tuning}
    model = build("ZegCLIP", tuning=options)
    pixels = torch.randn(1, 3, 64, 96)
    text = F.normalize(torch.randn(5, 48), dim=1)
    reference = MaskCLIP(clip=Clip(*fresh_clip("random:tiny"))).eval()
    with torch.no_grad():
        image, patches = model.image_tuning(pixels)
        cosines = reference.cosines(pixels, text)
        own = F.normalize(reference.clip.model.encode_image(pixels[:, :, :, :64]), dim=-1)
        image = model.image_tuning(pixels[:, :, :, :64])[0]
    torch.testing.assert_close(
        (patches[0] @ text.t()).t().unflatten(1, (8, 12)), cosines, atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(image, own, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("prompts", "image_tuning.prompts."),
        ("adapter", "image_tuning.adapters."),
        ("lora", "backbone.visual.transformer.resblocks."),
    ],
)
def test_only_the_tuning_and_the_decoder_are_trained(build, kind, prefix):
    model = build("ZegCLIP", tuning={"kind": kind}).train()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any(n.startswith(prefix) for n in trained)
    assert all(n.startswith((prefix, "decoder.")) for n in trained)
    sum(model.losses([semantic_item()]).values()).backward()
    tuned = [p for n, p in model.named_parameters() if n.startswith(prefix) and p.requires_grad]
    assert all(p.grad is not None for p in tuned)


def test_prompts_are_replaced_in_deep_blocks_and_then_left_out(build):
    model = build("ZegCLIP", tuning={"prompt_blocks": 1})
    prompts = model.image_tuning.prompts
    x = torch.randn(2, 7, 64)
    for block, count in ((0, 4), (1, 4), (2, 0)):
        tokens = prompts.insert(x, 6, block)
        assert tokens.shape[1] == 7 + count
        assert torch.equal(tokens[:, 0], x[:, 0]) and torch.equal(tokens[:, -6:], x[:, -6:])
    first, deep = (prompts.insert(x, 6, block)[:, 1:5] for block in (0, 1))
    assert not torch.allclose(first, deep)


def test_unlabelled_pixels_are_negatives_or_have_no_loss(build):
    item = semantic_item()
    item["instances"] = item["instances"][:0]
    item["ignored"][:] = 2
    published = build("ZegCLIP").losses([item])["loss_focal"]
    ignoring = build("ZegCLIP", unlabelled_negative=False).losses([item])["loss_focal"]
    assert float(published) > 1 and float(ignoring) == 0


def test_training_steps_decrease_the_loss(build):
    model = build("ZegCLIP").train()
    items = [semantic_item(0), semantic_item(1)]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for _ in range(12):
        loss = sum(model.losses(items).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_probabilities_of_unseen_classes_are_raised(build):
    from detectron2.data import MetadataCatalog

    name = "trained_clip_classes"
    vocabulary = Vocabulary.from_names(things=["dog", ("puma", "cougar"), "horse"])
    MetadataCatalog.get(name).set(vocabulary=vocabulary, unseen_classes=["horse"])
    model = build("ZegCLIP", train_datasets=(name,), held_out=("cougar",), unseen_offset=0.5)
    asked = Vocabulary.from_names(things=["Dog", "puma", "horse", "unicorn"])
    try:
        assert model.unseen_classes(asked) == [False, True, True, True]
        item = {**semantic_item(), "vocabulary": asked}
        raised = model([item])[0]["sem_seg"]
        model.unseen_offset = 0.0
        plain = model([item])[0]["sem_seg"]
    finally:
        MetadataCatalog.pop(name)
    unseen = torch.tensor([0.0, 1, 1, 1])[:, None, None]
    torch.testing.assert_close(raised, (plain + 0.5 * unseen) / 1.5)


def test_windows_of_the_whole_image_equal_none(build):
    from hipie.modeling.open_vocabulary.sliding_window import SlidingWindowConfig

    item = semantic_item()
    whole = build("ZegCLIP")([item])[0]["sem_seg"]
    windows = build("ZegCLIP", sliding_window=SlidingWindowConfig(64, 32))([item])[0]["sem_seg"]
    torch.testing.assert_close(windows, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tuning": {"kind": "prompt"}}, "TUNING .*similar names are prompts"),
        ({"tuning": {"last_block": "keys"}}, "LAST_BLOCK"),
        ({"tuning": {"prompt_blocks": 3}}, r"PROMPT_BLOCKS has to be in 0\.\.2"),
    ],
)
def test_unusable_settings_are_named(build, options, message):
    with pytest.raises(ValueError, match=message):
        build("ZegCLIP", **options)


def test_a_training_image_without_a_vocabulary_is_named(build):
    item = semantic_item()
    del item["vocabulary"]
    with pytest.raises(ValueError, match="page.png: a training image needs `vocabulary`"):
        build("ZegCLIP").train().losses([item])
