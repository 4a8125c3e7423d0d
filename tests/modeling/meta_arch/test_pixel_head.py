"""HIPIE with a pixel class head, with the small model."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import CfgNode

from hipie.config.reading import ConfigError
from hipie.errors import InputError
from tests.modeling.meta_arch.test_ablation_keys import built, losses_of, raw
from tests.modeling.meta_arch.test_hipie import VOCABULARY, make_image, training_input

HEAD = ("PIXEL_HEAD.ENABLED", True)
READS_MASKS = ("PIXEL_HEAD.ONLY_READS_MASKS", True)


def item(image: int = 0) -> dict:
    return {"image": make_image(image), "vocabulary": VOCABULARY}


def without_head(model: torch.nn.Module, cfg: CfgNode) -> torch.nn.Module:
    """A model without the head and otherwise the same weights."""
    other = built(cfg)
    missing, unexpected = other.load_state_dict(model.state_dict(), strict=False)
    assert not missing and all(name.startswith("pixel_head.") for name in unexpected)
    return other


def test_its_loss_is_linear_in_the_weight_and_leaves_the_others(tiny_cfg: CfgNode) -> None:
    model = built(tiny_cfg, *HEAD, "PIXEL_HEAD.LOSS_WEIGHT", 2.0)
    twice = built(tiny_cfg, *HEAD, "PIXEL_HEAD.LOSS_WEIGHT", 4.0)
    twice.load_state_dict(model.state_dict())
    losses, doubled = (
        losses_of(model, training_input("detection")),
        losses_of(twice, training_input("detection")),
    )
    others = losses_of(without_head(model, tiny_cfg), training_input("detection"))
    assert losses.keys() - others.keys() == {"loss_pixel_class"}
    torch.testing.assert_close(doubled["loss_pixel_class"], 2 * losses["loss_pixel_class"])
    for name, value in others.items():
        torch.testing.assert_close(losses[name], value)


def test_dice_loss_is_a_term_of_its_own(tiny_cfg: CfgNode) -> None:
    model = built(tiny_cfg, *HEAD, "PIXEL_HEAD.STRIDE", 4)
    other = built(tiny_cfg, *HEAD, "PIXEL_HEAD.STRIDE", 4, "PIXEL_HEAD.DICE_WEIGHT", 3.0)
    other.load_state_dict(model.state_dict())
    losses = losses_of(model, training_input("detection"))
    with_dice = losses_of(other, training_input("detection"))
    assert with_dice.keys() - losses.keys() == {"loss_pixel_dice"}
    assert 0 < float(with_dice["loss_pixel_dice"]) < 3.0
    torch.testing.assert_close(with_dice["loss_pixel_class"], losses["loss_pixel_class"])


def test_alone_it_trains_the_backbone_only(tiny_cfg: CfgNode) -> None:
    model = built(tiny_cfg, *HEAD, "PIXEL_HEAD.ONLY", True)
    losses = losses_of(model, training_input("detection"))
    assert set(losses) == {"loss_pixel_class"}
    losses["loss_pixel_class"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    parts = {name.partition(".")[0] for name in trained}
    assert {"backbone", "pixel_head"} <= parts <= {"backbone", "pixel_head", "text_encoder"}


def test_alone_it_may_read_mask_features_that_are_not_trained(tiny_cfg: CfgNode) -> None:
    alone = (*HEAD, "PIXEL_HEAD.ONLY", True)
    plain, model = built(tiny_cfg, *alone), built(tiny_cfg, *alone, *READS_MASKS)
    torch.nn.init.normal_(model.pixel_head.mask_projection.weight)
    plain.load_state_dict(model.state_dict())
    loss = losses_of(model, training_input("detection"))["loss_pixel_class"]
    assert float(loss) != float(losses_of(plain, training_input("detection"))["loss_pixel_class"])
    loss.backward()
    assert model.pixel_head.mask_projection.weight.grad is not None
    assert all(p.grad is None for p in model.stuff.parameters())


def test_context_changes_results(tiny_cfg: CfgNode) -> None:
    model = built(tiny_cfg, *HEAD, "PIXEL_HEAD.CONTEXT", True)
    before = model.inference([item()])[0]["sem_seg"]
    torch.nn.init.normal_(model.pixel_head.context[2].weight)
    alone = [model.inference([item(i)])[0]["sem_seg"] for i in (0, 1)]
    assert not torch.allclose(alone[0], before)
    for one, other in zip(model.inference([item(0), item(1)]), alone, strict=True):
        torch.testing.assert_close(one["sem_seg"], other, rtol=1e-4, atol=1e-5)


def test_without_weight_results_are_those_of_queries(tiny_cfg: CfgNode) -> None:
    model = built(tiny_cfg, *HEAD, "PIXEL_HEAD.MASK_WEIGHT", 0.0, "PIXEL_HEAD.SEMANTIC_WEIGHT", 0.0)
    expected = without_head(model, tiny_cfg).inference([item()])[0]
    result = model.inference([item()])[0]
    torch.testing.assert_close(result["sem_seg"], expected["sem_seg"])
    assert torch.equal(result["instances"].scores, expected["instances"].scores)
    assert torch.equal(result["panoptic_seg"][0], expected["panoptic_seg"][0])
    other = built(tiny_cfg, *HEAD)
    other.load_state_dict(model.state_dict())
    weighted = other.inference([item()])[0]
    assert not torch.allclose(weighted["sem_seg"], expected["sem_seg"])
    assert not torch.equal(weighted["instances"].scores, expected["instances"].scores)


def test_a_batch_equals_its_images_one_by_one(tiny_cfg: CfgNode) -> None:
    model = built(tiny_cfg, *HEAD)
    batch = model.inference([item(0), item(1)])
    for i, result in enumerate(batch):
        alone = model.inference([item(i)])[0]
        torch.testing.assert_close(result["sem_seg"], alone["sem_seg"], atol=1e-5, rtol=1e-4)


def test_it_does_not_change_what_it_reads(tiny_cfg: CfgNode) -> None:
    model = built(tiny_cfg, *HEAD)
    expected = raw(without_head(model, tiny_cfg))
    torch.testing.assert_close(raw(model).stuff.mask_logits, expected.stuff.mask_logits)


def test_it_runs_in_bfloat16(tiny_cfg: CfgNode) -> None:
    model = built(tiny_cfg, *HEAD)
    assert model.set_precision("bfloat16") == "bfloat16"
    assert model.inference([item()])[0]["sem_seg"].isfinite().all()


def test_weights_are_shares(tiny_cfg: CfgNode) -> None:
    with pytest.raises(InputError, match=r"PIXEL_HEAD\.MASK_WEIGHT must be in 0 to 1, not 1\.5"):
        built(tiny_cfg, *HEAD, "PIXEL_HEAD.MASK_WEIGHT", 1.5)
    with pytest.raises(ConfigError, match=r"PIXEL_HEAD\.ONLY True and .*PIXEL_HEAD\.ENABLED"):
        built(tiny_cfg, "PIXEL_HEAD.ONLY", True)
    with pytest.raises(ConfigError, match=r"PIXEL_HEAD\.ENABLED True and .*STUFF\.ENABLED"):
        built(tiny_cfg, *HEAD, "STUFF.ENABLED", False)
