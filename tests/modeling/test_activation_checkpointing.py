"""Recomputed layers: the same gradients and names, fewer stored activations."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model

from hipie.errors import InputError
from hipie.modeling.activation_checkpointing import checkpoint_activations
from tests.conftest import tiny_full_size
from tests.modeling.meta_arch.test_hipie import randomise_zero_heads, training_input

PARTS = ("BACKBONE", "FUSION", "ENCODER", "DECODER")


def built(backbone: str, text: str, parts: tuple[str, ...]) -> torch.nn.Module:
    """HIPIE in training mode with dropout, drop path and random heads."""
    cfg = tiny_full_size(backbone, text)
    for part in parts:
        cfg.MODEL.ACTIVATION_CHECKPOINTING[part] = True
    torch.manual_seed(0)
    return randomise_zero_heads(build_model(cfg)).train()


def step(model: torch.nn.Module, task: str) -> tuple[dict, dict, int]:
    """Losses, gradients, and bytes that operators stored for the backward pass."""
    stored: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model([training_input(task, seed) for seed in range(2)])
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return losses, gradients, sum(stored.values())


@pytest.mark.parametrize(
    ("backbone", "task"), [("vit_h", "detection"), ("r50", "parts"), ("r50", "referring")]
)
def test_gradients_with_dropout_are_equal(tiny_text, backbone, task) -> None:
    losses, gradients, _ = step(built(backbone, str(tiny_text), ()), task)
    model = built(backbone, str(tiny_text), PARTS)
    recomputed_losses, recomputed, _ = step(model, task)
    assert all(torch.equal(losses[name], recomputed_losses[name]) for name in losses)
    assert gradients.keys() == recomputed.keys()
    for name, gradient in gradients.items():
        error = (recomputed[name] - gradient).abs().max()
        assert error <= 1e-6 * max(1.0, float(gradient.abs().max())), name


@pytest.mark.parametrize("part", PARTS)
def test_each_part_stores_less(tiny_text, part) -> None:
    plain = built("vit_h", str(tiny_text), ())
    recomputing = built("vit_h", str(tiny_text), (part,))
    assert plain.state_dict().keys() == recomputing.state_dict().keys()
    ran = []
    for layer in recomputing.layer_groups()[part.lower()]:
        forward = layer.forward._forward
        layer.forward._forward = lambda *a, f=forward, **k: (ran.append(1), f(*a, **k))[1]
    stored = step(plain, "detection")[2]
    assert step(recomputing, "detection")[2] < 0.97 * stored
    assert len(ran) == 2 * len(recomputing.layer_groups()[part.lower()])
    ran.clear()
    recomputing.eval()([{"image": 255 * torch.rand(3, 64, 64), "expressions": ["dog"]}])
    assert len(ran) <= len(recomputing.layer_groups()[part.lower()])


def test_double_precision_gradients_of_one_layer() -> None:
    """A layer with dropout whose inputs need gradients, in float64."""
    layer = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Dropout(0.5), torch.nn.Tanh())
    layer = layer.double()
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for recompute in (False, True):
        if recompute:
            checkpoint_activations([layer])
        torch.manual_seed(1)
        results.append(torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()]))
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


def test_what_cannot_be_recomputed_is_named(tiny_text) -> None:
    with pytest.raises(InputError, match=r"batch norm \(1\)"):
        checkpoint_activations(
            [torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))]
        )
    cfg = tiny_full_size("r50", str(tiny_text))
    cfg.MODEL.HIPIE.THINGS.EARLY_FUSION = False
    cfg.MODEL.ACTIVATION_CHECKPOINTING.FUSION = True
    with pytest.raises(InputError, match="FUSION is True, and this HIPIE has no fusion layers"):
        build_model(cfg)
