"""Keys of `MODEL.HIPIE` for ablations: a property of each, with the small model."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from hipie.config.reading import ConfigError
from hipie.modeling.criterion.build import build_criterion
from hipie.modeling.matcher.hungarian import HungarianMatcher
from hipie.modeling.matcher.matching import build_matcher
from hipie.modeling.matcher.sim_ota import SimOTACosts, costs_and_ious
from hipie.modeling.meta_arch.build import hipie_arguments
from hipie.structures import BatchedTargets, LayerOutput
from hipie.vocabularies.vocabulary import Vocabulary
from tests.modeling.meta_arch.test_hipie import (
    VOCABULARY,
    make_image,
    randomise_zero_heads,
    training_input,
)

OTHER_NAMES = Vocabulary.from_names(things=["zebra", "tram"], stuff=["snow", "brick wall"])
WEIGHT_KEYS = ("CLASS", "BOX", "GIOU", "MASK", "DICE")
LOSS_OF_KEY = {"CLASS": "ce", "BOX": "bbox", "GIOU": "giou", "MASK": "mask", "DICE": "dice"}
LOSS_OF_KEY["IOU"] = "boxiou"


def built(cfg: CfgNode, *options) -> torch.nn.Module:
    cfg = cfg.clone()
    cfg.merge_from_list([f"MODEL.HIPIE.{o}" if i % 2 == 0 else o for i, o in enumerate(options)])
    torch.manual_seed(0)
    return randomise_zero_heads(build_model(cfg)).eval()


def raw(model, vocabulary=VOCABULARY, image=0):
    return model.predict_raw([{"image": make_image(image), "vocabulary": vocabulary}])


def losses_of(model, item) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return model.train().losses([item])


def name_of(loss: str) -> str:
    return loss.removeprefix("loss_").partition("_")[0]


@pytest.mark.parametrize(
    ("branch", "key"),
    [*((branch, key) for branch in ("THING", "STUFF") for key in WEIGHT_KEYS), ("THING", "IOU")],
)
def test_losses_are_linear_in_their_weights(
    make_batch, make_stuff_batch, tiny_cfg: CfgNode, branch: str, key: str
) -> None:
    batch = (make_batch if branch == "THING" else make_stuff_batch)([[True, False], [True]])
    loss = tiny_cfg.MODEL.HIPIE.LOSS
    for cost in WEIGHT_KEYS:  # the matching stays
        loss.STUFF_COSTS[cost] = 1.0
    totals = []
    for weight in (0.0, 1.5, 4.5):
        loss[f"{branch}_WEIGHTS"][key] = weight
        torch.manual_seed(5)
        totals.append(batch.run(build_criterion(loss[f"{branch}_CRITERION"], tiny_cfg)))
    none, one, three = totals
    for name in none:
        if name_of(name) == LOSS_OF_KEY[key]:
            assert none[name] == 0 and one[name] > 0
            torch.testing.assert_close(three[name], 3 * one[name])
        else:
            assert torch.equal(none[name], three[name])


def assignment_case(seed: int, objects: int = 3, queries: int = 5):
    generator = torch.Generator().manual_seed(seed)
    sizes = 0.1 + 0.4 * torch.rand(2, queries, 2, generator=generator)
    boxes = torch.cat([0.5 + 0.3 * torch.rand(2, queries, 2, generator=generator) - 0.15, sizes], 2)
    layer = LayerOutput(boxes=boxes[:1], logits=torch.randn(1, queries, 4, generator=generator))
    positive = torch.eye(4, dtype=torch.bool)[:objects]
    is_thing = torch.tensor([True, False, True])[:objects]
    masks = torch.zeros(objects, 8, 8, dtype=torch.bool)
    return layer, BatchedTargets(boxes[1, :objects], is_thing, positive, masks, (0, objects))


@pytest.mark.parametrize("seed", range(4))
def test_hungarian_matching_of_things_has_the_least_cost_of_all(
    tiny_cfg: CfgNode, seed: int
) -> None:
    layer, targets = assignment_case(seed)
    tiny_cfg.MODEL.HIPIE.LOSS.THING_COSTS.merge_from_list(["CLASS", 0.5 + seed, "BOX", 1.0])
    matcher = build_matcher("HungarianMatcher", tiny_cfg, "THING")
    assert isinstance(matcher, HungarianMatcher) and matcher.weights.class_ == 0.5 + seed
    cost, is_thing = matcher.costs([layer], targets)
    things = is_thing.nonzero().flatten()
    best = min(
        permutations(range(cost.shape[0]), len(things)),
        key=lambda rows: float(cost[list(rows), things].sum()),
    )
    matching = matcher(layer, targets)
    found = dict(zip(matching.target_index.tolist(), matching.query_index.tolist(), strict=True))
    assert found == dict(zip(things.tolist(), best, strict=True))


def test_costs_of_sim_ota_are_linear_in_their_weights() -> None:
    layer, targets = assignment_case(0)
    case = (layer.logits[0], layer.boxes[0], targets.boxes, targets.positive_map, targets.is_thing)
    case = (*case[:1], case[1].clone(), *case[2:])
    case[1][0, :2] = 0.99  # outside of all objects
    names = ("class_", "giou", "off_center", "outside")
    none = dict.fromkeys(names, 0.0)
    parts = [costs_and_ious(*case, SimOTACosts(**{**none, name: 1.0}))[0] for name in names]
    assert all(part.any() for part in parts)
    weights = (0.7, 2.0, 30.0, 500.0)
    total, _ = costs_and_ious(*case, SimOTACosts(**dict(zip(names, weights, strict=True))))
    expected = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(total, expected)
    everywhere, _ = costs_and_ious(*case, SimOTACosts(**none, center_radius=2.0))
    assert not everywhere.any()


def test_number_of_candidates_bounds_the_queries_of_a_thing(tiny_cfg: CfgNode) -> None:
    layer, targets = assignment_case(1)
    layer = LayerOutput(boxes=targets.boxes[None, [0] * 5], logits=layer.logits)  # IoU 1
    for candidates in (1, 3):
        tiny_cfg.MODEL.HIPIE.LOSS.SIM_OTA.NUM_CANDIDATES = candidates
        matching = build_matcher("SimOTAMatcher", tiny_cfg, "THING")(layer, targets)
        assert (matching.target_index == 0).sum() == candidates


def test_boxes_of_stuff_have_no_losses_where_they_are_off(
    make_stuff_batch, tiny_cfg: CfgNode
) -> None:
    for on in (True, False):
        tiny_cfg.MODEL.HIPIE.STUFF.BOX_LOSS = on
        criterion = build_criterion("StuffCriterion", tiny_cfg)
        totals = []
        for shift in (0.0, 0.1):
            batch = make_stuff_batch([[True, False]])
            boxes = batch.targets[0].boxes.clone()
            boxes[1, 0] += shift
            batch.replace_target(0, boxes=boxes)
            torch.manual_seed(0)
            totals.append(batch.run(criterion))
        same = all(torch.equal(totals[0][name], totals[1][name]) for name in totals[0])
        assert same != on


def test_stuff_depends_on_the_text_with_early_fusion_only(tiny_cfg: CfgNode) -> None:
    late, early = built(tiny_cfg), built(tiny_cfg, "STUFF.EARLY_FUSION", True)
    for name, model in (("late", late), ("early", early)):
        first, second = raw(model).stuff, raw(model, OTHER_NAMES).stuff
        same = torch.equal(first.mask_logits, second.mask_logits) and torch.equal(
            first.boxes, second.boxes
        )
        assert same == (name == "late")
    features = early.encode_images([{"image": make_image(0)}])
    assert features.stuff is None and features.stuff_inputs
    item = {"image": make_image(0), "vocabulary": VOCABULARY}
    (alone,), (cached,) = early.inference([item]), early.inference([item], features)
    assert torch.equal(alone["sem_seg"], cached["sem_seg"])
    losses = losses_of(early, training_input("detection"))
    sum(losses.values()).backward()
    assert early.stuff.fusion.text_key.weight.grad.abs().sum() > 0


def test_plain_text_at_the_class_head_of_stuff(tiny_cfg: CfgNode) -> None:
    from hipie.modeling.text_encoder.caption import vocabulary_caption

    for options in ((), ("STUFF.EARLY_FUSION", True)):
        fused = built(tiny_cfg, *options)
        plain = built(tiny_cfg, "STUFF.FUSED_TEXT", False, *options)
        text = plain.text_encoder([vocabulary_caption(VOCABULARY)])
        item = [{"image": make_image(0), "vocabulary": VOCABULARY}]
        with torch.no_grad():
            features, _, _ = plain._extract_features(item, training=False)
            output, _ = plain.stuff.decode_with_text(features, text)
            expected = plain.stuff.classify(output, text.hidden).layers[-1].logits
        found = raw(plain).stuff.token_logits
        assert torch.equal(found, expected)
        assert not torch.equal(raw(fused).stuff.token_logits, found)


def test_stuff_decoder_without_supervision_of_things(tiny_cfg: CfgNode) -> None:
    model = built(tiny_cfg, "STUFF.SUPERVISE_THINGS", False)
    both = losses_of(model, training_input("detection", labels=[2, 0]))
    other_thing = losses_of(model, training_input("detection", labels=[2, 1]))
    of_stuff = {name for name in both if name.endswith("_maskdino")}
    assert of_stuff and all(torch.equal(both[name], other_thing[name]) for name in of_stuff)
    assert any(not torch.equal(both[name], other_thing[name]) for name in both.keys() - of_stuff)
    supervised = losses_of(built(tiny_cfg), training_input("detection", labels=[2, 0]))
    assert any(not torch.equal(both[name], supervised[name]) for name in of_stuff)
    only_things = losses_of(model, training_input("detection", labels=[0]))
    assert only_things.keys() == both.keys()
    assert all(torch.isfinite(value) for value in only_things.values())


def test_fusion_before_the_second_layer(tiny_cfg: CfgNode) -> None:
    """The first layer does not read the text, the second one does."""
    options = ("THINGS.ENCODER_LAYERS", 2)
    inputs: dict[tuple[str, int], list[torch.Tensor]] = {}
    for place, layers in (("first", (0,)), ("second", (1,)), ("both", (0, 1))):
        model = built(tiny_cfg, *options, "THINGS.FUSION_LAYERS", layers)
        assert len(model.things.fusions()) == len(model.layer_groups()["fusion"]) == len(layers)
        for i, layer in enumerate(model.things.encoder):
            layer.register_forward_pre_hook(
                lambda _, args, key=(place, i): inputs.setdefault(key, []).append(args[0])
            )
        raw(model)
        raw(model, OTHER_NAMES)
    reads_text = {key: not torch.equal(*tokens) for key, tokens in inputs.items()}
    assert reads_text == {
        ("first", 0): True,
        ("first", 1): True,
        ("second", 0): False,
        ("second", 1): True,
        ("both", 0): True,
        ("both", 1): True,
    }


def test_dot_product_masks_of_things(tiny_cfg: CfgNode) -> None:
    model = built(tiny_cfg, "THINGS.MASK_HEAD", "dot_product")
    dynamic = raw(built(tiny_cfg)).things.mask_logits
    output = model.decode([{"image": make_image(0), "vocabulary": VOCABULARY}]).things
    masks = raw(model).things.mask_logits
    assert masks.shape == dynamic.shape and not torch.equal(masks, dynamic)
    embeddings, features = output.layers[-1].mask_embeddings[0], output.mask_features[0]
    expected = (embeddings @ features.flatten(1)).unflatten(1, features.shape[1:])
    torch.testing.assert_close(masks[0], expected)
    sum(losses_of(model, training_input("detection")).values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.things.mask_embedding.parameters())


def test_without_iou_head_scores_are_class_probabilities(tiny_cfg: CfgNode) -> None:
    options = ("THINGS.IOU_HEAD", False, "LOSS.SUPERVISE_LAST_IOU", False)
    model = built(tiny_cfg, *options)
    assert raw(model).things.iou_logits is None
    item = {"image": make_image(0), "expressions": ["the dog"]}
    (best,) = model([item])[0]["referring"]
    logits = model.predict_raw([item]).things.token_logits
    assert logits.shape[2] == 1
    torch.testing.assert_close(best.scores, expression_scores(model, item).max()[None])
    assert len(model([{"image": make_image(0), "vocabulary": VOCABULARY}])[0]["instances"])
    losses = losses_of(model, training_input("detection"))
    assert losses and not any("boxiou" in name for name in losses)


def expression_scores(model, item) -> torch.Tensor:
    """Class probabilities of the thing queries."""
    with torch.no_grad():
        features = model.encode_images([item], stuff=False)
        _, _, things, _ = model._decode_expressions(
            features.things, features.image_sizes, item["expressions"]
        )
    return things.layers[-1].logits.sigmoid()


def test_text_window_bounds_what_is_encoded_together(tiny_cfg: CfgNode) -> None:
    names = Vocabulary.from_names(things=[f"thing number {i}" for i in range(20)])
    lengths: dict[int, list[int]] = {}
    for window in (512, 24):
        model = built(tiny_cfg, "TEXT.WINDOW", window)
        model.text_encoder.model.register_forward_pre_hook(
            lambda _, args, kwargs, window=window: lengths.setdefault(window, []).append(
                kwargs["input_ids"].shape[1]
            ),
            with_kwargs=True,
        )
        raw(model, names)
    assert lengths[512][0] > 24 >= max(lengths[24])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("LOSS.THING_MATCHER", "HungarianMatcher", "LOSS.SIM_OTA.GIOU", 1.0),
            r"SIM_OTA\.GIOU is a constant of SimOTAMatcher, and \S+THING_MATCHER is Hungarian",
        ),
        (
            ("LOSS.THING_COSTS.BOX", 1.0),
            r"THING_COSTS\.BOX is a constant of HungarianMatcher, and \S+THING_MATCHER is SimOTA",
        ),
        (
            ("STUFF.EARLY_FUSION", True, "STUFF.ENABLED", False),
            r"STUFF\.EARLY_FUSION True and MODEL\.HIPIE\.STUFF\.ENABLED False exclude each other",
        ),
        (
            ("STUFF.SUPERVISE_THINGS", False, "TEST.THING_SCORES_FROM_STUFF_DECODER", True),
            r"THING_SCORES_FROM_STUFF_DECODER True and \S+SUPERVISE_THINGS False exclude each",
        ),
        (
            ("STUFF.ENABLED", False, "TEST.THING_SCORES_FROM_STUFF_DECODER", True),
            r"THING_SCORES_FROM_STUFF_DECODER True and \S+STUFF\.ENABLED False exclude each",
        ),
        (
            ("STUFF.ENABLED", False, "STUFF.FUSED_TEXT", False),
            r"STUFF\.FUSED_TEXT False and MODEL\.HIPIE\.STUFF\.ENABLED False exclude each other",
        ),
        (
            ("STUFF.ENABLED", False, "STUFF.LATERAL_FEATURE", "res2"),
            r"LATERAL_FEATURE res2 and MODEL\.HIPIE\.STUFF\.ENABLED False exclude each other",
        ),
        (
            ("STUFF.DENOISING_QUERIES", 0, "STUFF.DENOISING_NOISE", 0.2),
            r"DENOISING_NOISE 0\.2 and MODEL\.HIPIE\.STUFF\.DENOISING_QUERIES 0 exclude each other",
        ),
        (
            ("THINGS.IOU_HEAD", False, "LOSS.SUPERVISE_LAST_IOU", True),
            r"SUPERVISE_LAST_IOU True and MODEL\.HIPIE\.THINGS\.IOU_HEAD False exclude each other",
        ),
        (
            ("THINGS.EARLY_FUSION", False, "THINGS.FUSION_LAYERS", (0, 1)),
            r"FUSION_LAYERS \(0, 1\) and \S+EARLY_FUSION False exclude each other",
        ),
        (("THINGS.FUSION_LAYERS", (7,)), r"FUSION_LAYERS is \(7,\); .* \S+ENCODER_LAYERS is 1"),
        (
            ("LOSS.STUFF_TERMS", ("mask_focal_loss", "mask_cross_entropy_loss")),
            r"STUFF_TERMS has mask_focal_loss and mask_cross_entropy_loss, which exclude each",
        ),
        (("THINGS.MASK_HEAD", "convolution"), r"MASK_HEAD is 'convolution'; .* or dot_product"),
    ],
)
def test_keys_that_exclude_each_other_are_refused(tiny_cfg: CfgNode, options, message) -> None:
    tiny_cfg.merge_from_list(
        [f"MODEL.HIPIE.{o}" if i % 2 == 0 else o for i, o in enumerate(options)]
    )
    with pytest.raises(ConfigError, match=message) as raised:
        hipie_arguments(tiny_cfg)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source", ["sam", "ground_truth"])
def test_masks_of_parts_without_names_of_parts_are_refused(tiny_cfg: CfgNode, source: str) -> None:
    tiny_cfg.TEST.PART_MASKS, tiny_cfg.TEST.SAM = source, "random:tiny"
    hipie_arguments(tiny_cfg)  # one of the data sets has names of parts
    tiny_cfg.DATASETS.TEST = ("picturebook_val_panoptic", "picturebook_val_refer")
    message = (
        rf"^TEST\.PART_MASKS {source} and DATASETS\.TEST picturebook_val_panoptic, "
        r"picturebook_val_refer exclude each other: none of these data sets has names of parts$"
    )
    with pytest.raises(ConfigError, match=message):
        hipie_arguments(tiny_cfg)
    tiny_cfg.DATASETS.TEST = ("of_a_module_that_is_imported_later",)
    hipie_arguments(tiny_cfg)
