"""The architecture: what groups and single images get, and where gradients go."""

from __future__ import annotations

import pytest
import torch

from grser.modeling.lavt import upsample

NEVER, ALWAYS = 1e3, -1e3


def answers(model, item) -> torch.Tensor:
    """[N, H, W] of a group of equal sizes."""
    return torch.cat([one["sem_seg"] for one in model([item])[0]])


def without_targets(group: dict) -> dict:
    images = [{k: v for k, v in one.items() if k != "target"} for one in group["images"]]
    return {**group, "images": images}


def gradients(model, batch) -> dict[str, bool]:
    """Whether each parameter gets one that is not all zero."""
    model.zero_grad()
    sum(model.train()(batch).values()).backward()
    return {
        name: parameter.grad is not None and bool(parameter.grad.any())
        for name, parameter in model.named_parameters()
    }


# Answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ranked", "pooled", "none"])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_an_answer_an_image_at_its_own_size(make_model, make_group, kind, count):
    model = make_model(kind=kind)
    group = without_targets(make_group(*[True] * count))
    group["images"][-1] |= {"height": 31, "width": 17}
    found = model([group])[0]
    assert len(found) == count
    for item, one in zip(group["images"], found, strict=True):
        assert one["sem_seg"].shape == (1, item["height"], item["width"])
        assert set(one["sem_seg"].unique().tolist()) <= {0.0, 1.0}
        assert isinstance(one["positive"], bool) and 0 <= one["score"] <= 1


def test_permuting_a_group_permutes_its_answers_and_nothing_else(make_model, make_group):
    model = make_model(soft_masks=True)
    group = make_group(True, False, True)
    found = model([group])[0]
    order = [2, 0, 1]
    moved = model([{**group, "images": [group["images"][i] for i in order]}])[0]
    for place, i in enumerate(order):
        torch.testing.assert_close(moved[place]["sem_seg"], found[i]["sem_seg"])
        assert moved[place]["score"] == pytest.approx(found[i]["score"], abs=1e-5)
        assert moved[place]["positive"] == found[i]["positive"]


def test_identical_images_have_identical_answers(make_model, make_group):
    model = make_model(soft_masks=True, margin=ALWAYS)
    group = make_group(True)
    found = answers(model, {**group, "images": group["images"] * 3})
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_group_of_one_is_the_single_image(make_model, make_group):
    """Ordinary referring: the image fills the group, and the rule is not asked."""
    model = make_model(reject_negatives=False)
    group = make_group(True)
    (image,) = group["images"]
    (alone,) = model([{**image, "expressions": [group["expression"]]}])[0]["referring"]
    together = answers(model, group)[0] > 0
    assert bool(together.any()) == bool(len(alone))
    if len(alone):
        assert torch.equal(alone.pred_masks[0], together)
    filled = answers(model, {**group, "images": [image] * 3})[0] > 0
    assert torch.equal(filled, together)


def test_expressions_about_one_image_are_never_rejected(make_model, make_group):
    model = make_model(margin=NEVER)
    with torch.no_grad():
        model.lavt.decoder.classes.bias[1] += 50
    (image,) = make_group(True)["images"]
    (item,) = model([{**image, "expressions": ["a dog", "the cat"]}])
    assert [len(one) for one in item["referring"]] == [1, 1]
    assert item["referring"][0].pred_masks.shape == (1, 48, 80)
    assert item["referring"][0].pred_boxes.tensor.tolist() == [[0, 0, 80, 48]]


def test_the_margin_decides(make_model, make_group):
    for margin, positive in ((NEVER, False), (ALWAYS, True)):
        model = make_model(margin=margin, soft_masks=True)
        with torch.no_grad():
            model.lavt.decoder.classes.bias[1] += 50
        for one in model([make_group(True, False)])[0]:
            assert one["positive"] == positive
            assert bool(one["sem_seg"].any()) == positive  # of a rejected image exactly 0
            assert one["score"] == pytest.approx(float(positive), abs=1e-3)


def test_margin_zero_is_the_nearer_expression(make_model, make_group):
    model, group = make_model(), make_group(True, False, True)
    seen, compared = [], model.rejection_head.forward
    model.rejection_head.forward = lambda *given: seen.append(compared(*given)) or seen[-1]
    found = model([group])[0]
    ((near, far),) = seen
    assert [one["positive"] for one in found] == (near < far).tolist()


def test_without_the_rule_any_pixel_will_do(make_model, make_group):
    model = make_model(reject_negatives=False, margin=NEVER)
    for push, positive in ((-50.0, False), (50.0, True)):
        with torch.no_grad():
            model.lavt.decoder.classes.bias.copy_(torch.tensor([0.0, push]))
        for one in model([make_group(True, False)])[0]:
            assert one["positive"] == positive == bool(one["sem_seg"].any())


def test_grey_answers_without_the_rule_are_kept_however_faint(make_model, make_group):
    model = make_model(reject_negatives=False, soft_masks=True)
    with torch.no_grad():
        model.lavt.decoder.classes.bias.copy_(torch.tensor([3.0, 0.0]))
    for one in model([make_group(True, False)])[0]:
        assert one["positive"] and 0 < one["sem_seg"].max() < 0.5


def test_single_images_can_be_ruled_too(make_model, make_group):
    image = {**make_group(True)["images"][0], "expressions": ["the square"]}
    kept, ruled = (
        make_model(margin=NEVER, reject_single_images=one)([image])[0]["referring"][0]
        for one in (False, True)
    )
    assert len(kept) == 1 and not len(ruled)


def test_many_images_are_encoded_some_at_a_time(make_model, make_group):
    group = make_group(True, False, True, True, False)
    found = answers(make_model(soft_masks=True, reject_negatives=False), group)
    few = make_model(soft_masks=True, reject_negatives=False, images_per_forward=2)
    batches = []
    few.lavt.encoder.register_forward_pre_hook(lambda _, given: batches.append(len(given[0])))
    torch.testing.assert_close(answers(few, group), found, atol=1e-5, rtol=1e-4)
    assert batches == [2, 2, 1]


def test_images_of_several_sizes_are_stretched_to_the_largest(make_model, make_group):
    model, group = make_model(soft_masks=True, reject_negatives=False), make_group(True, True)
    small = group["images"][1]["image"]
    group["images"][0]["image"] = torch.zeros(3, 96, 64, dtype=torch.uint8)
    stretched = torch.nn.functional.interpolate(small[None].float(), (96, 64), mode="bilinear")[0]
    found = answers(model, group)
    group["images"][1] |= {"image": stretched}
    torch.testing.assert_close(answers(model, group), found)


@pytest.mark.parametrize("level", [2, 3])
def test_either_stage_can_be_asked(make_model, make_group, level):
    model = make_model(feature_level=level)
    group = make_group(True, False)
    assert len(model([group])[0]) == 2
    assert all(torch.isfinite(v) for v in model.train()([group]).values())


def test_bfloat16(make_model, make_group):
    model, group = (
        make_model(soft_masks=True, reject_negatives=False),
        make_group(True, False, True),
    )
    full = answers(model, group)
    with torch.autocast("cpu", torch.bfloat16):
        assert float((answers(model, group) - full).abs().max()) < 0.1
        losses = model.train()([group])
    assert all(v.dtype == torch.float32 and torch.isfinite(v) for v in losses.values())


def test_corners_lie_on_corners():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    found = upsample(x, (3, 5))
    assert found[0, 0, 1].tolist() == [1.5, 2.0, 2.5, 3.0, 3.5]
    assert upsample(x, (2, 3)) is x


# Training -----------------------------------------------------------------------------------


def test_losses_have_the_names_of_their_parts(make_model, make_group):
    batch = [make_group(True, False, True)]
    assert set(make_model().train()(batch)) == {"loss_mask", "loss_triplet", "loss_mirror"}
    assert set(make_model(mirror_weight=0.0).train()(batch)) == {"loss_mask", "loss_triplet"}
    assert set(make_model(kind="none").train()(batch)) == {"loss_mask"}
    assert "loss_heatmap" in make_model(heatmap_weight=1.0).train()(batch)


@pytest.mark.parametrize("kind", ["ce", "bce_dice"])
@pytest.mark.parametrize("shown", [(False, False, False), (True, True, True), (False,), (True,)])
def test_groups_of_negatives_or_of_positives_alone(make_model, make_group, kind, shown):
    model = make_model(mask_loss=kind, heatmap_weight=1.0)
    given = gradients(model, [make_group(*shown)])
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert given["lavt.decoder.classes.weight"]


def test_weights_of_losses(make_model, make_group):
    batch = [make_group(True, False, True)]
    plain = make_model(heatmap_weight=1.0).train()(batch)
    given = {"triplet_weight": 3.0, "mirror_weight": 0.5, "heatmap_weight": 2.0}
    found = make_model(**given).train()(batch)
    torch.testing.assert_close(found["loss_mask"], plain["loss_mask"])
    for name, factor in (("triplet", 3.0), ("mirror", 0.5), ("heatmap", 2.0)):
        torch.testing.assert_close(found[f"loss_{name}"], factor * plain[f"loss_{name}"])


def test_every_parameter_learns(make_model, make_group):
    given = gradients(make_model(), [make_group(True, False, True)])
    # A softmax over words does not feel a constant, an instance norm over pixels neither; after the
    # last stage nothing takes the words on.
    unfelt = ("query.bias", "key.bias", ".out.bias", "gates.3.0.weight", "gates.3.2.weight")
    still = {name for name, learns in given.items() if not learns and not name.endswith(unfelt)}
    assert all(name.startswith("text_encoder.model.embeddings") for name in still), still


def test_gradients_go_where_the_formulas_say(make_model, make_group):
    """Only the triplet teaches the comparison; only mirror training needs the anti-expression."""
    batch = [make_group(True, False, True)]
    seen = gradients(make_model(triplet_weight=0.0), batch)
    assert not any(learns for name, learns in seen.items() if name.startswith("rejection_head."))
    assert (
        seen["triphasic_head.text_projection.weight"]
        and seen["triphasic_head.output_projection.weight"]
    )
    model = make_model(triplet_weight=0.0, mirror_weight=0.0)
    text = model.text_encoder
    read, kept = text.encode, []

    def watched(expressions):
        found = read(expressions)
        found.anti_expression.retain_grad()
        found.expression.retain_grad()
        kept.append(found)
        return found

    text.encode = watched
    gradients(model, batch)
    # It ranks prototypes, and ranks carry none.
    assert kept[0].anti_expression.grad is None or not kept[0].anti_expression.grad.any()
    assert kept[0].expression.grad.any()


def test_the_mirrored_pass_shares_the_encoder(make_model, make_group):
    model, calls = make_model(), []
    model.lavt.encoder.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    model.train()([make_group(True, False, True), make_group(True, True)])
    assert calls == [5]


def test_the_mirrored_pass_answers_with_the_background(make_model, make_group):
    """Told to give 0 or 1 everywhere, the two passes cannot both be right."""
    model, group = make_model(), make_group(True, False, True)
    share = float(torch.stack([one["target"].float() for one in group["images"]]).mean())
    with torch.no_grad():
        model.lavt.decoder.classes.weight.zero_()
        model.lavt.decoder.classes.bias.copy_(torch.tensor([20.0, 0.0]))
    losses = model.train()([group])
    weighed = 1.1 * share + 0.9 * (1 - share)
    assert losses["loss_mask"].item() == pytest.approx(20 * 1.1 * share / weighed, rel=1e-3)
    assert losses["loss_mirror"].item() == pytest.approx(20 * 0.9 * (1 - share) / weighed, rel=1e-3)


def test_single_images_train_without_the_rule(make_model, make_group):
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


# Bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": []}, "at least one image in `images`"),
        ({"expression": None}, "a group needs a referring expression"),
        ({"expression": " "}, "no letter or digit"),
        ({"images": [torch.zeros(3, 64, 64)]}, "image 0 of a group must be a dict with `image`"),
    ],
)
def test_bad_groups_are_named(model, make_group, change, words):
    with pytest.raises(ValueError, match=words):
        model([{**make_group(True), **change}])


def test_bad_images_are_named(model, make_model, make_group):
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
    flat = make_group(True)
    flat["images"][0]["image"] = torch.zeros(3, 40, 0)
    with pytest.raises(ValueError, match=r"image0.png: `image` must be \[3, H, W\].*\[3, 40, 0\]"):
        model([flat])
    deep = make_group(True)
    deep["images"][0]["target"] = torch.zeros(1, 64, 64)
    with pytest.raises(ValueError, match=r"image0.png: a training image needs `target` \[H, W\]"):
        make_model().train()([deep])
    tiny = make_group(True)
    tiny["images"][0]["image"] = torch.zeros(3, 20, 20)
    with pytest.raises(ValueError, match="20x20 pixels are too small"):
        model([tiny])
