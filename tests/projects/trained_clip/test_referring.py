"""CRIS and ETRIS: layers against independent formulas, inputs, training."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from torch import nn

from hipie import add_hipie_config
from hipie_trained_clip.modeling.bridges import GatedAttention, stage_ends
from hipie_trained_clip.modeling.clip_encoders import dense_attention
from hipie_trained_clip.modeling.layers import (
    TextConditionedProjector,
    map_positions,
    token_positions,
)
from hipie_trained_clip.modeling.vision_language_decoder import DecoderLayer
from tests.projects.trained_clip.conftest import referring_item

BOTH = pytest.mark.parametrize("name", ["CRIS", "ETRIS"])


def test_projector_is_a_convolution_with_a_kernel_of_the_text():
    torch.manual_seed(0)
    projector = TextConditionedProjector(6, 8).double().eval()
    features, text = torch.randn(3, 8, 5, 4).double(), torch.randn(3, 6).double()
    logits = projector(features, text)
    assert logits.shape == (3, 20, 16)
    x = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
    x = F.interpolate(projector.first(x), scale_factor=2, mode="bilinear", align_corners=False)
    x = F.pad(projector.last(projector.second(x)), (1, 1, 1, 1))
    kernels = text @ projector.kernel.weight.t() + projector.kernel.bias
    for sample in range(3):
        kernel, bias = kernels[sample, :-1].reshape(4, 3, 3), kernels[sample, -1]
        for row, column in ((0, 0), (7, 9), (19, 15)):
            window = x[sample, :, row : row + 3, column : column + 3]
            expected = (window * kernel).sum() + bias
            torch.testing.assert_close(logits[sample, row, column], expected)


def test_positions_are_sines_of_columns_then_rows():
    positions = map_positions(3, 5, 8, torch.device("cpu")).double()
    row, column = 2, 4
    expected = []
    for coordinate in (column, row):
        for k in range(2):
            angle = coordinate / 10000 ** (2 * k / 4)
            expected += [math.sin(angle), math.cos(angle)]
    assert positions[row * 5 + column].tolist() == pytest.approx(expected, abs=1e-6)
    words = token_positions(4, 6, torch.device("cpu"))
    angles = [3 / 10000 ** (2 * k / 6) for k in range(3)]
    expected = [f(angle) for angle in angles for f in (math.sin, math.cos)]
    assert words[3].tolist() == pytest.approx(expected, abs=1e-6)


def test_gate_of_a_single_word_is_its_projected_value():
    """With one key the attention is 1, whatever the query."""
    torch.manual_seed(0)
    gate = GatedAttention(8, 2).double().eval()
    pixels, word = torch.randn(2, 7, 8).double(), torch.randn(2, 1, 8).double()
    attention = gate.attention
    value = F.linear(word, attention.in_proj_weight[16:], attention.in_proj_bias[16:])
    torch.testing.assert_close(gate(pixels, word), pixels * attention.out_proj(value))


def test_decoder_layer_equals_its_formula():
    torch.manual_seed(0)
    layer = DecoderLayer(8, 6, 2, 10, 0.0).double().eval()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    pixels, text = torch.randn(2, 5, 8).double(), torch.randn(2, 4, 6).double()
    positions, keys = torch.randn(5, 8).double(), torch.randn(2, 4, 6).double()
    pad = torch.tensor([[False, False, False, True], [False, False, True, True]])
    mask = torch.zeros(2, 4).double().masked_fill(pad, float("-inf"))
    result = layer(pixels, text, positions, keys, mask)

    def attend(module, q, k, v, blocked=None):
        if module.in_proj_weight is None:
            weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        else:
            weights = module.in_proj_weight.chunk(3)
        biases = module.in_proj_bias.chunk(3)
        q, k, v = (
            (x @ w.t() + b).unflatten(-1, (2, 4))
            for x, w, b in zip((q, k, v), weights, biases, strict=True)
        )
        scores = torch.einsum("phd,thd->hpt", q, k) / 2
        if blocked is not None:
            scores[:, :, blocked] = float("-inf")
        return module.out_proj(torch.einsum("hpt,thd->phd", scores.softmax(-1), v).flatten(1))

    for b in range(2):
        x = layer.norm_self(pixels[b])
        x = attend(layer.self_attention, x + positions, x + positions, x)
        y = pixels[b] + layer.norm_self_out(x)
        x = layer.norm_cross(y) + positions
        x = attend(layer.cross_attention, x, keys[b], text[b], pad[b])
        y = y + layer.norm_cross_out(x)
        hidden = layer.norm_hidden(layer.linear_in(layer.norm_mlp(y)).relu())
        torch.testing.assert_close(result[b], y + layer.linear_out(hidden))


def test_dense_attention_averages_to_clips_pooling_of_equal_positions(build):
    """Of a constant map without positions, every position is CLIP's own pooled feature."""
    model = build("CRIS")
    pool = model.backbone.visual.attnpool
    pool.positional_embedding.data.zero_()
    x = torch.randn(2, 256, 1, 1).expand(-1, -1, 2, 2)
    dense = dense_attention(pool, x)
    torch.testing.assert_close(dense[:, :, 0, 1], pool(x.contiguous()), atol=1e-5, rtol=1e-4)


def test_stages_end_at_thirds():
    assert stage_ends(12, 3) == (4, 8, 12)
    assert stage_ends(3, 3) == (1, 2, 3)
    assert stage_ends(2, 3) == (1, 2, 2)


@pytest.mark.parametrize(
    ("name", "clip"), [("CRIS", ""), ("ETRIS", ""), ("ETRIS", "random:tiny-resnet")]
)
def test_expressions_do_not_depend_on_each_other(build, name, clip):
    model = build(name, clip)
    item = referring_item()
    image = model.preprocess(item)[None]
    ids = model.tokenize(item["expressions"])
    with torch.no_grad():
        together = model.mask_logits(image, ids, torch.zeros(2, dtype=torch.long))
        alone = torch.cat([model.mask_logits(image, row[None]) for row in ids])
    assert together.shape == (2, 16, 16) or clip == ""
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_padding_of_texts_does_not_count_in_cris(build):
    model = build("CRIS")
    item = referring_item()
    image, ids = model.preprocess(item)[None], model.tokenize(["a dog"])
    with torch.no_grad():
        padded, cut = (model.mask_logits(image, x) for x in (ids, ids[:, : int((ids != 0).sum())]))
    torch.testing.assert_close(padded, cut, atol=1e-5, rtol=1e-5)


@BOTH
def test_loss_is_the_cross_entropy_of_the_masks(build, name):
    model = build(name)
    items = [referring_item(0), referring_item(1)]
    loss = model.losses(items)["loss_mask"]
    with torch.no_grad():
        images = torch.stack([model.preprocess(item) for item in items])
        ids = model.tokenize([text for item in items for text in item["expressions"]])
        logits = model.mask_logits(images, ids, torch.tensor([0, 0, 1, 1])).double()
    step = 64 // logits.shape[-1]
    masks = torch.cat([item["instances"].gt_masks.tensor for item in items])
    targets = masks[:, ::step, ::step].double()
    p = logits.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_etris_trains_bridges_and_positions_of_clip_only(build):
    model = build("ETRIS").train()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in trained if n.startswith("backbone.")} == {
        "backbone.positional_embedding",
        "backbone.visual.positional_embedding",
    }
    assert any(n.startswith("bridges.") for n in trained)
    assert not model.backbone.training and model.neck.training
    model.losses([referring_item()])["loss_mask"].backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_learning_rates(build):
    from hipie.engine.optimizer import build_optimizer

    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.SOLVER.BASE_LR, cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0, 0.1
    model = build("CRIS")
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build_optimizer(cfg, model).param_groups
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert rates["backbone.visual.layer2.0.conv1.weight"] == 0.1
    assert rates["backbone.visual.attnpool.positional_embedding"] == 1.0
    assert rates["projector.last.weight"] == rates["pooling.shortcut.0.weight"] == 1.0


def test_position_table_is_resized_to_training_images(build):
    model = build("ETRIS", image_size=96)
    assert model.backbone.visual.positional_embedding.shape == (145, 64)
    assert model.backbone.visual.grid_size == (12, 12)


@BOTH
def test_training_steps_decrease_the_loss(build, name):
    model = build(name).train()
    items = [referring_item(0), referring_item(1)]
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 2e-3)
    losses = []
    for _ in range(8):
        loss = model.losses(items)["loss_mask"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@BOTH
def test_results_have_the_requested_size_and_are_empty_below_the_threshold(build, name):
    model = build(name)
    item = {**referring_item(), "height": 50, "width": 70}
    model.mask_threshold = 0.0
    (full,) = model([item])[0]["referring"][:1]
    assert full.pred_masks.shape == (1, 50, 70) and bool(full.pred_masks.all())
    assert 0 <= float(full.scores) <= 1
    model.mask_threshold = 1.0
    assert [len(result) for result in model([item])[0]["referring"]] == [0, 0]


def test_blue_first_images_are_converted(build):
    model = build("ETRIS")
    item = referring_item()
    expected = model.preprocess(item)
    model.image_format = "BGR"
    assert torch.equal(model.preprocess({**item, "image": item["image"].flip(0)}), expected)


def test_long_expressions_are_truncated_with_a_warning(build):
    model = build("ETRIS", max_tokens=5)
    with pytest.warns(UserWarning, match="only the first 3 are used"):
        ids = model.tokenize(["the red square at the top"])
    assert ids.shape == (1, 5) and int(ids.argmax()) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expressions": []}, "page.png: CRIS needs `expressions`"),
        ({"image": torch.zeros(3, 64, 80)}, "page.png: an image of 80x64 .* divisible by 32"),
    ],
)
def test_bad_inputs_are_named(build, change, message):
    with pytest.raises(ValueError, match=message):
        build("CRIS")([{**referring_item(), **change}])


def test_a_single_expression_is_refused_in_training(build):
    item = referring_item()
    item["expressions"] = item["expressions"][:1]
    item["instances"] = item["instances"][:1]
    with pytest.raises(ValueError, match="at least two expressions"):
        build("CRIS").train().losses([item])


def test_cris_refuses_a_vit(build):
    with pytest.raises(ValueError, match="CRIS needs a ResNet of CLIP"):
        build("CRIS", "random:tiny")
