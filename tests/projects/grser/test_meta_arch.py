"""GRSer: outputs of groups and single images, losses and gradients."""

from __future__ import annotations

import pytest
import torch

from grser.modeling.lavt import upsample

REJECT_ALL, ACCEPT_ALL = 1e3, -1e3


def masks_of(model, item) -> torch.Tensor:
    """Masks [N, H, W] of a group whose outputs have equal sizes."""
    return torch.cat([output["sem_seg"] for output in model([item])[0]])


def without_targets(group: dict) -> dict:
    images = [{k: v for k, v in output.items() if k != "target"} for output in group["images"]]
    return {**group, "images": images}


def gradients(model, batch) -> dict[str, bool]:
    """Whether each parameter has a gradient that is not zero."""
    model.zero_grad()
    sum(model.train()(batch).values()).backward()
    return {
        name: parameter.grad is not None and bool(parameter.grad.any())
        for name, parameter in model.named_parameters()
    }


# Inference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ranked", "pooled", "none"])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_outputs_have_the_size_of_each_image(make_model, make_group, kind, count):
    model = make_model(kind=kind)
    group = without_targets(make_group(*[True] * count))
    group["images"][-1] |= {"height": 31, "width": 17}
    outputs = model([group])[0]
    assert len(outputs) == count
    for item, output in zip(group["images"], outputs, strict=True):
        assert output["sem_seg"].shape == (1, item["height"], item["width"])
        assert set(output["sem_seg"].unique().tolist()) <= {0.0, 1.0}
        assert isinstance(output["positive"], bool) and 0 <= output["score"] <= 1


def test_permuted_group_permutes_the_outputs(make_model, make_group):
    model = make_model(soft_masks=True)
    group = make_group(True, False, True)
    outputs = model([group])[0]
    order = [2, 0, 1]
    permuted = model([{**group, "images": [group["images"][i] for i in order]}])[0]
    for index, i in enumerate(order):
        torch.testing.assert_close(permuted[index]["sem_seg"], outputs[i]["sem_seg"])
        assert permuted[index]["score"] == pytest.approx(outputs[i]["score"], abs=1e-5)
        assert permuted[index]["positive"] == outputs[i]["positive"]


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "language"},
        {"ranks": "positive"},
        {"ranks": "negative"},
        {"ranks": "positive", "anti_prefix": "", "triplet_weight": 0.0, "mirror_weight": 0.0},
        {"anti_prefix": "anything but"},
        {"triplet_weight": 0.0},
    ],
    ids=lambda settings: ",".join(map(str, settings.values())),
)
def test_permuted_group_permutes_the_outputs_of_every_variant(make_model, make_group, settings):
    model, group, order = make_model(**settings), make_group(True, False, True), [1, 2, 0]
    outputs = model([group])[0]
    moved = model([{**group, "images": [group["images"][i] for i in order]}])[0]
    for output, i in zip(moved, order, strict=True):
        torch.testing.assert_close(output["sem_seg"], outputs[i]["sem_seg"])
        assert output["score"] == pytest.approx(outputs[i]["score"], abs=1e-5)
        assert output["positive"] == outputs[i]["positive"]
    losses = model.train()([group])
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert {name.rpartition(".gates.")[0] for name in without} <= {"lavt.encoder"}


@pytest.mark.parametrize("kind", ["ranked", "pooled", "language"])
def test_heatmaps_are_returned_on_request(make_model, make_group, kind):
    model, group = make_model(kind=kind), make_group(True, False, True)
    plain, outputs = model([group])[0], model([{**group, "heatmaps": True}])[0]
    for output, without in zip(outputs, plain, strict=True):
        assert "heatmaps" not in without and torch.equal(output["sem_seg"], without["sem_seg"])
        heatmaps = output["heatmaps"]
        assert heatmaps["language"].shape == (2, 2)
        assert heatmaps["visual"].shape == (0 if kind == "language" else 3, 2, 2)
        assert all(m.abs().max() <= 1 + 1e-5 for m in (heatmaps["language"], *heatmaps["visual"]))
        if kind == "ranked":
            assert sorted(heatmaps["sources"].tolist()) == [0, 1, 2]
    if kind == "ranked":
        order = [2, 0, 1]
        moved = model([{**group, "images": [group["images"][i] for i in order], "heatmaps": True}])
        for output, i in zip(moved[0], order, strict=True):
            expected = outputs[i]["heatmaps"]
            torch.testing.assert_close(output["heatmaps"]["visual"], expected["visual"])
            sources = [order[source] for source in output["heatmaps"]["sources"].tolist()]
            assert sources == expected["sources"].tolist()
    always = make_model(kind=kind, return_heatmaps=True)([group])[0]
    assert torch.equal(always[0]["heatmaps"]["language"], outputs[0]["heatmaps"]["language"])


def test_lavt_has_no_heatmaps(make_model, make_group):
    with pytest.raises(ValueError, match='MODEL.GRSER.HEATMAPS "none"'):
        make_model(kind="none")([{**make_group(True), "heatmaps": True}])


def test_language_heatmaps_do_not_depend_on_other_images(make_model, make_group):
    model = make_model(kind="language", soft_masks=True, margin=ACCEPT_ALL)
    group, other = make_group(True, False, True), make_group(False, True)["images"]
    outputs = masks_of(model, group)
    alone = masks_of(model, {**group, "images": group["images"][:1]})
    neighbours = masks_of(model, {**group, "images": [group["images"][0], *other]})
    torch.testing.assert_close(alone[0], outputs[0])
    torch.testing.assert_close(neighbours[0], outputs[0])


def test_without_triplet_loss_nothing_untrained_decides(make_model, make_group):
    """No comparison is built, and an image is positive if its mask is not empty."""
    model = make_model(triplet_weight=0.0, margin=REJECT_ALL)
    assert model.rejection_head is None
    group = make_group(True, False)
    assert "loss_triplet" not in model.train()([group])
    for bias, positive in ((-50.0, False), (50.0, True)):
        with torch.no_grad():
            model.lavt.decoder.classes.bias.copy_(torch.tensor([0.0, bias]))
        outputs = model.eval()([group])[0]
        assert [output["positive"] for output in outputs] == [positive] * 2
        assert all(bool(output["sem_seg"].any()) == positive for output in outputs)


def test_identical_images_have_identical_outputs(make_model, make_group):
    model = make_model(soft_masks=True, margin=ACCEPT_ALL)
    group = make_group(True)
    outputs = masks_of(model, {**group, "images": group["images"] * 3})
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_single_image_equals_a_group_of_one(make_model, make_group):
    """The image is repeated to fill the group, and nothing is rejected."""
    model = make_model(reject_negatives=False)
    group = make_group(True)
    (image,) = group["images"]
    (single,) = model([{**image, "expressions": [group["expression"]]}])[0]["referring"]
    group_mask = masks_of(model, group)[0] > 0
    assert bool(group_mask.any()) == bool(len(single))
    if len(single):
        assert torch.equal(single.pred_masks[0], group_mask)
    repeated = masks_of(model, {**group, "images": [image] * 3})[0] > 0
    assert torch.equal(repeated, group_mask)


def test_expressions_about_a_single_image_are_not_rejected(make_model, make_group):
    model = make_model(margin=REJECT_ALL)
    with torch.no_grad():
        model.lavt.decoder.classes.bias[1] += 50
    (image,) = make_group(True)["images"]
    (item,) = model([{**image, "expressions": ["a dog", "the cat"]}])
    assert [len(output) for output in item["referring"]] == [1, 1]
    assert item["referring"][0].pred_masks.shape == (1, 48, 80)
    assert item["referring"][0].pred_boxes.tensor.tolist() == [[0, 0, 80, 48]]


def test_margin_determines_the_rejection(make_model, make_group):
    for margin, positive in ((REJECT_ALL, False), (ACCEPT_ALL, True)):
        model = make_model(margin=margin, soft_masks=True)
        with torch.no_grad():
            model.lavt.decoder.classes.bias[1] += 50
        for output in model([make_group(True, False)])[0]:
            assert output["positive"] == positive
            assert bool(output["sem_seg"].any()) == positive  # exactly 0 for rejected images
            assert output["score"] == pytest.approx(float(positive), abs=1e-3)


def test_margin_zero_selects_the_nearer_expression(make_model, make_group):
    model, group = make_model(margin=0.0), make_group(True, False, True)
    recorded, distances_of = [], model.rejection_head.forward
    model.rejection_head.forward = lambda *arguments: (
        recorded.append(distances_of(*arguments)) or recorded[-1]
    )
    outputs = model([group])[0]
    ((near, far),) = recorded
    assert [output["positive"] for output in outputs] == (near < far).tolist()


def test_without_rejection_any_foreground_pixel_is_positive(make_model, make_group):
    model = make_model(reject_negatives=False, margin=REJECT_ALL)
    for bias, positive in ((-50.0, False), (50.0, True)):
        with torch.no_grad():
            model.lavt.decoder.classes.bias.copy_(torch.tensor([0.0, bias]))
        for output in model([make_group(True, False)])[0]:
            assert output["positive"] == positive == bool(output["sem_seg"].any())


def test_soft_masks_without_rejection_are_positive(make_model, make_group):
    model = make_model(reject_negatives=False, soft_masks=True)
    with torch.no_grad():
        model.lavt.decoder.classes.bias.copy_(torch.tensor([3.0, 0.0]))
    for output in model([make_group(True, False)])[0]:
        assert output["positive"] and 0 < output["sem_seg"].max() < 0.5


def test_single_images_can_be_rejected(make_model, make_group):
    image = {**make_group(True)["images"][0], "expressions": ["the square"]}
    unrejected, rejected = (
        make_model(margin=REJECT_ALL, reject_single_images=output)([image])[0]["referring"][0]
        for output in (False, True)
    )
    assert len(unrejected) == 1 and not len(rejected)


def test_large_groups_are_encoded_in_chunks(make_model, make_group):
    group = make_group(True, False, True, True, False)
    outputs = masks_of(make_model(soft_masks=True, reject_negatives=False), group)
    chunked_model = make_model(soft_masks=True, reject_negatives=False, images_per_forward=2)
    batches = []
    chunked_model.lavt.encoder.register_forward_pre_hook(
        lambda _, arguments: batches.append(len(arguments[0]))
    )
    torch.testing.assert_close(masks_of(chunked_model, group), outputs, atol=1e-5, rtol=1e-4)
    assert batches == [2, 2, 1]


def test_images_are_resized_to_the_largest_size(make_model, make_group):
    model, group = make_model(soft_masks=True, reject_negatives=False), make_group(True, True)
    smaller = group["images"][1]["image"]
    group["images"][0]["image"] = torch.zeros(3, 96, 64, dtype=torch.uint8)
    resized = torch.nn.functional.interpolate(smaller[None].float(), (96, 64), mode="bilinear")[0]
    outputs = masks_of(model, group)
    group["images"][1] |= {"image": resized}
    torch.testing.assert_close(masks_of(model, group), outputs)


@pytest.mark.parametrize("level", [2, 3])
def test_both_feature_levels_are_supported(make_model, make_group, level):
    model = make_model(feature_level=level)
    group = make_group(True, False)
    assert len(model([group])[0]) == 2
    assert all(torch.isfinite(v) for v in model.train()([group]).values())


def test_bfloat16_autocast(make_model, make_group):
    model, group = (
        make_model(soft_masks=True, reject_negatives=False),
        make_group(True, False, True),
    )
    full = masks_of(model, group)
    with torch.autocast("cpu", torch.bfloat16):
        assert float((masks_of(model, group) - full).abs().max()) < 0.1
        losses = model.train()([group])
    assert all(v.dtype == torch.float32 and torch.isfinite(v) for v in losses.values())


def test_upsampling_aligns_corners():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    outputs = upsample(x, (3, 5))
    assert outputs[0, 0, 1].tolist() == [1.5, 2.0, 2.5, 3.0, 3.5]
    assert upsample(x, (2, 3)) is x


# Training -----------------------------------------------------------------------------------


def test_names_of_losses(make_model, make_group):
    batch = [make_group(True, False, True)]
    assert set(make_model().train()(batch)) == {"loss_mask", "loss_triplet", "loss_mirror"}
    assert set(make_model(mirror_weight=0.0).train()(batch)) == {"loss_mask", "loss_triplet"}
    assert set(make_model(kind="none").train()(batch)) == {"loss_mask"}
    assert "loss_heatmap" in make_model(heatmap_weight=1.0).train()(batch)


@pytest.mark.parametrize("kind", ["ce", "bce_dice"])
@pytest.mark.parametrize("positive", [(False, False, False), (True, True, True), (False,), (True,)])
def test_groups_with_only_positives_or_negatives_train(make_model, make_group, kind, positive):
    model = make_model(mask_loss=kind, heatmap_weight=1.0)
    arguments = gradients(model, [make_group(*positive)])
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert arguments["lavt.decoder.classes.weight"]


def test_losses_are_weighted(make_model, make_group):
    batch = [make_group(True, False, True)]
    unweighted = make_model(heatmap_weight=1.0).train()(batch)
    arguments = {"triplet_weight": 3.0, "mirror_weight": 0.5, "heatmap_weight": 2.0}
    outputs = make_model(**arguments).train()(batch)
    torch.testing.assert_close(outputs["loss_mask"], unweighted["loss_mask"])
    for name, factor in (("triplet", 3.0), ("mirror", 0.5), ("heatmap", 2.0)):
        torch.testing.assert_close(outputs[f"loss_{name}"], factor * unweighted[f"loss_{name}"])


def test_parameters_have_gradients(make_model, make_group):
    has_gradient_by_name = gradients(make_model(), [make_group(True, False, True)])
    # A softmax over tokens and an instance norm over pixels are invariant to a constant; the gate
    # of the last stage has no successor.
    expected_without_gradient = (
        "query.bias",
        "key.bias",
        ".out.bias",
        "gates.3.0.weight",
        "gates.3.2.weight",
    )
    without_gradient = {
        name
        for name, has_gradient in has_gradient_by_name.items()
        if not has_gradient and not name.endswith(expected_without_gradient)
    }
    assert all(name.startswith("text_encoder.model.embeddings") for name in without_gradient), (
        without_gradient
    )


def test_activation_checkpointing_keeps_gradients(make_model, make_group):
    gradients = []
    for parts in ((), ("backbone", "fusion")):
        model = make_model(checkpointed_parts=parts).train()
        torch.manual_seed(3)
        sum(model([make_group(True, False, True)]).values()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    layers = [layer for group in model.layer_groups().values() for layer in group]
    assert len(layers) > 4
    assert all("forward" in vars(layer) for layer in layers)


def test_gradients_of_each_loss(make_model, make_group):
    """The rejection head depends on the triplet loss, the anti-expression on mirror training."""
    batch = [make_group(True, False, True)]
    recorded = gradients(make_model(triplet_weight=0.0), batch)
    assert not any(
        has_gradient
        for name, has_gradient in recorded.items()
        if name.startswith("rejection_head.")
    )
    assert (
        recorded["triphasic_head.text_projection.weight"]
        and recorded["triphasic_head.output_projection.weight"]
    )
    model = make_model(triplet_weight=0.0, mirror_weight=0.0)
    text = model.text_encoder
    encode, unrejected = text.encode, []

    def record(expressions):
        outputs = encode(expressions)
        outputs.anti_expression.retain_grad()
        outputs.expression.retain_grad()
        unrejected.append(outputs)
        return outputs

    text.encode = record
    gradients(model, batch)
    # It ranks prototypes, and ranks have no gradient.
    assert (
        unrejected[0].anti_expression.grad is None or not unrejected[0].anti_expression.grad.any()
    )
    assert unrejected[0].expression.grad.any()


def test_mirror_training_shares_the_encoder(make_model, make_group):
    model, calls = make_model(), []
    model.lavt.encoder.register_forward_pre_hook(
        lambda _, arguments: calls.append(len(arguments[0]))
    )
    model.train()([make_group(True, False, True), make_group(True, True)])
    assert calls == [5]


def test_target_of_mirror_training_is_the_background(make_model, make_group):
    """With constant logits the two passes have complementary losses."""
    model, group = make_model(), make_group(True, False, True)
    target_share = float(
        torch.stack([output["target"].float() for output in group["images"]]).mean()
    )
    with torch.no_grad():
        model.lavt.decoder.classes.weight.zero_()
        model.lavt.decoder.classes.bias.copy_(torch.tensor([20.0, 0.0]))
    losses = model.train()([group])
    total_weight = 1.1 * target_share + 0.9 * (1 - target_share)
    assert losses["loss_mask"].item() == pytest.approx(
        20 * 1.1 * target_share / total_weight, rel=1e-3
    )
    assert losses["loss_mirror"].item() == pytest.approx(
        20 * 0.9 * (1 - target_share) / total_weight, rel=1e-3
    )


def test_single_images_train_without_rejection(make_model, make_group):
    from detectron2.structures import BitMasks, Instances

    (image,) = make_group(True)["images"]
    target = image.pop("target")
    objects = Instances((64, 64))
    objects.gt_masks = BitMasks(torch.stack([target > 0, torch.zeros(64, 64, dtype=torch.bool)]))
    objects.gt_classes = torch.tensor([0, 0])
    item = {**image, "expressions": ["the square", "a dog"], "instances": objects}
    losses = make_model().train()([item])
    assert losses["loss_triplet"].item() == 0
    assert losses["loss_mask"].item() > 0


# Errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "at least one image in `images`"),
        ({"expression": None}, "a group needs a referring expression"),
        ({"expression": " "}, "no letter or digit"),
        ({"images": [torch.zeros(3, 64, 64)]}, "image 0 of a group must be a dict with `image`"),
    ],
)
def test_invalid_groups_raise_an_error(model, make_group, change, message):
    with pytest.raises(ValueError, match=message):
        model([{**make_group(True), **change}])


def test_invalid_images_raise_an_error_with_their_file(model, make_model, make_group):
    group = make_group(True, True)
    group["images"][1]["image"] = torch.zeros(64, 64)
    with pytest.raises(ValueError, match=r"image1.png: `image` must be \[3, H, W\]"):
        model([group])
    with pytest.raises(ValueError, match=r"image0.png: a training image needs `target`"):
        make_model().train()([without_targets(make_group(True))])
    with pytest.raises(ValueError, match="GRSer needs `images` and `expression`, or one `image`"):
        model([{"image": torch.zeros(3, 64, 64)}])
    with pytest.raises(ValueError, match="or one `image` and a list of `expressions`"):
        model([{"image": torch.zeros(3, 64, 64), "expressions": "the square"}])
    empty = make_group(True)
    empty["images"][0]["image"] = torch.zeros(3, 40, 0)
    with pytest.raises(ValueError, match=r"image0.png: `image` must be \[3, H, W\].*\[3, 40, 0\]"):
        model([empty])
    wrong_shape = make_group(True)
    wrong_shape["images"][0]["target"] = torch.zeros(1, 64, 64)
    with pytest.raises(ValueError, match=r"image0.png: a training image needs `target` \[H, W\]"):
        make_model().train()([wrong_shape])
    tiny = make_group(True)
    tiny["images"][0]["image"] = torch.zeros(3, 20, 20)
    with pytest.raises(ValueError, match="20x20 pixels are too small"):
        model([tiny])
