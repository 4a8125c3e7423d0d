"""Defaults of the base class of architectures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from hipie.modeling.meta_arch.base import SegmentationModel, meta_architecture, reach_parameters


class Minimal(SegmentationModel):
    """Architecture with inference only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def inference(self, batched_inputs: list[dict[str, Any]], image_features: Any = None) -> Any:
        assert not torch.is_grad_enabled()
        return [{"size": len(batched_inputs)} for _ in batched_inputs]


class Trained(Minimal):
    """Architecture with losses."""

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        return {"loss": self.layer.weight.sum()}


def test_defaults_suit_a_model_with_a_checkpoint() -> None:
    model = Minimal()
    assert Minimal.tasks == frozenset() and not Minimal.supports_image_features
    assert Minimal.requires_checkpoint()
    assert Minimal.dataset_mapper(get_cfg(), "any", True) is None
    assert Minimal.evaluator(get_cfg(), "any") is None
    assert Minimal.checkpoint_converters() == ()
    assert model.parameters_without_weight_decay() == set()
    assert model.external_weight_prefixes() == ()
    assert model.device == torch.device("cpu")


def test_forward_computes_losses_in_training_mode_and_predictions_otherwise() -> None:
    model = Trained()
    assert set(model([{}])) == {"loss"}
    assert model.eval()([{}, {}]) == [{"size": 2}, {"size": 2}]


def test_backward_reaches_parameters_that_losses_do_not_use() -> None:
    model = Trained()
    reached: list[str] = []
    nodes = []  # kept, since parameters refer to their nodes weakly
    for name, parameter in model.named_parameters():
        nodes.append(parameter.view_as(parameter).grad_fn.next_functions[0][0])
        nodes[-1].register_hook(lambda *_, name=name: reached.append(name))
    model([{}])["loss"].backward()
    assert set(reached) == {"layer.weight"}
    reached.clear()
    plain = model([{}])
    losses = reach_parameters(plain, model.parameters())
    assert losses.keys() == plain.keys() and torch.equal(losses["loss"], plain["loss"])
    model.zero_grad()
    losses["loss"].backward()
    assert set(reached) == {"layer.weight", "layer.bias"}
    assert torch.equal(model.layer.weight.grad, torch.ones(2, 2))
    assert model.layer.bias.grad is None


def test_unsupported_calls_name_the_architecture() -> None:
    with pytest.raises(NotImplementedError, match="Minimal cannot be trained; use --eval-only"):
        Minimal()([{}])
    with pytest.raises(NotImplementedError, match="Minimal has no text-independent"):
        Minimal().encode_images([{}])
    with pytest.raises(NotImplementedError, match="does not implement inference"):
        SegmentationModel().eval()([{}])


def test_meta_architecture_is_the_configured_class(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = get_cfg()
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "Minimal", Minimal)
    for name, expected in (("Minimal", Minimal), ("GeneralizedRCNN", None), ("Absent", None)):
        cfg.MODEL.META_ARCHITECTURE = name
        assert meta_architecture(cfg) is expected
