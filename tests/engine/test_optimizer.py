"""Optimizers of the configuration: learning rates by name, clipping, and skipped steps."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.solver import build_lr_scheduler
from detectron2.solver import build_optimizer as detectron2_optimizer
from torch import nn

from hipie.config import add_hipie_config
from hipie.engine.optimizer import (
    OPTIMIZER_REGISTRY,
    build_optimizer,
    parameter_groups,
    with_clipping,
)
from hipie.errors import InputError
from hipie.modeling.meta_arch.base import SegmentationModel

ClippedAdamW = with_clipping(torch.optim.AdamW)


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg


class Model(nn.Module):
    """Parameters with names that match each multiplier or none."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"sampling_offsets": nn.Linear(2, 2)})
        self.text_encoder = nn.Linear(2, 3)
        self.things = nn.ModuleDict({"sampling_offsets": nn.Linear(2, 4), "ffn": nn.Linear(2, 5)})
        self.again = self.things["ffn"]
        self.frozen = nn.Linear(7, 7).requires_grad_(False)


def test_first_matching_multiplier_counts(cfg):
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.SOLVER.SAMPLING_OFFSETS_MULTIPLIER = 0.2
    cfg.SOLVER.TEXT_ENCODER_MULTIPLIER = 0.3
    groups = build_optimizer(cfg, Model()).param_groups
    widths = {round(g["lr"] / cfg.SOLVER.BASE_LR, 6): {len(p) for p in g["params"]} for g in groups}
    assert widths == {0.1: {2}, 0.2: {4}, 0.3: {3}, 1.0: {5}}
    assert sum(len(g["params"]) for g in groups) == 8
    assert all(g["weight_decay"] == 0.01 for g in groups)


def test_default_learning_rates_are_the_published_ones(cfg):
    rates = sorted(g["lr"] for g in build_optimizer(cfg, Model()).param_groups)
    assert rates == pytest.approx([1e-5, 1e-4])


def test_joint_norm_of_the_gradients_is_clipped():
    a, b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer = ClippedAdamW([{"params": [a]}, {"params": [b]}], max_norm=0.1, lr=0.1)
    a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
    optimizer.step()
    assert a.grad.item() == pytest.approx(0.06, rel=1e-4)
    assert b.grad.item() == pytest.approx(0.08, rel=1e-4)
    assert a.item() < 0 and b.item() < 0


def test_gradients_below_the_bound_stay():
    a = nn.Parameter(torch.zeros(1))
    a.grad = torch.tensor([0.05])
    ClippedAdamW([{"params": [a]}], max_norm=0.1).step()
    assert a.grad.item() == pytest.approx(0.05)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_step_with_non_finite_gradient_is_skipped(value, caplog):
    a = nn.Parameter(torch.ones(2))
    optimizer = ClippedAdamW([{"params": [a]}], max_norm=0.1, lr=0.1)
    a.grad = torch.tensor([1.0, value])
    optimizer.step()
    assert torch.equal(a.detach(), torch.ones(2))
    assert "Skipped a step" in caplog.text
    a.grad = torch.ones(2)
    optimizer.step()
    assert (a < 1).all()


def test_gradients_are_clipped_once_a_step():
    a = nn.Parameter(torch.zeros(1))
    optimizer = ClippedAdamW([{"params": [a]}], max_norm=0.1, lr=0.1)
    for _ in range(2):
        a.grad = torch.tensor([5.0])
        assert optimizer.clip_gradients().item() == pytest.approx(5.0)
        a.grad *= 2
        optimizer.step()
        assert a.grad.item() == pytest.approx(0.2, rel=1e-4)
    a.grad = torch.tensor([5.0])
    optimizer.step()
    assert a.grad.item() == pytest.approx(0.1, rel=1e-4)


def test_optimizer_state_survives_a_checkpoint():
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    twin = copy.deepcopy(model)
    first = ClippedAdamW(parameter_groups(model, 0.1, []), max_norm=1.0, lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    first.step()
    twin.load_state_dict(model.state_dict())
    second = ClippedAdamW(parameter_groups(twin, 0.1, []), max_norm=1.0, lr=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for net, optimizer in ((model, first), (twin, second)):
        optimizer.zero_grad()
        net(torch.ones(1, 3)).pow(2).sum().backward()
        optimizer.step()
    assert torch.equal(model.weight, twin.weight)


def test_detectron2_schedule_scales_every_group(cfg):
    cfg.SOLVER.WARMUP_ITERS = 4
    cfg.SOLVER.WARMUP_FACTOR = 0.0
    cfg.SOLVER.STEPS = (6,)
    cfg.SOLVER.MAX_ITER = 8
    optimizer = build_optimizer(cfg, Model())
    schedule = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(8):
        rates.append(max(g["lr"] for g in optimizer.param_groups) / cfg.SOLVER.BASE_LR)
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 0.1, 0.1])


class Normed(nn.Module):
    """Convolution, norms and a linear layer, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(2, 4, 1), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(8, 3), nn.LayerNorm(3)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layers(inputs)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("SOLVER.NESTEROV", True),
        ("SOLVER.MOMENTUM", 0.5, "SOLVER.BIAS_LR_FACTOR", 2.0, "SOLVER.WEIGHT_DECAY_BIAS", 0.3),
        ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-3),
        (
            *("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"),
            *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-3, "SOLVER.CLIP_GRADIENTS.NORM_TYPE", 1.0),
        ),
    ],
)
def test_solver_keys_mean_what_they_mean_in_detectron2(cfg, options):
    """Detectron2's SGD, from the same configuration, takes the same steps."""
    cfg.merge_from_list(["SOLVER.OPTIMIZER", "SGD", "SOLVER.MAX_GRAD_NORM", 0.0, *options])
    cfg.merge_from_list(["SOLVER.WEIGHT_DECAY_NORM", 0.1, "SOLVER.BASE_LR", 0.05])
    model = Normed()
    twin = copy.deepcopy(model)
    ours, theirs = build_optimizer(cfg, model), detectron2_optimizer(cfg, twin)
    start = model.layers[0].weight.detach().clone()
    for step in range(4):
        inputs = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(step))
        for net, optimizer in ((model, ours), (twin, theirs)):
            optimizer.zero_grad()
            (net(inputs) * torch.arange(3)).pow(2).sum().backward()
            optimizer.step()
    assert not torch.allclose(start, model.layers[0].weight)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_single_gradients_are_clipped_before_the_full_gradient(cfg):
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.MAX_GRAD_NORM", 0.5])
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(cfg, model)
    model.weight.grad, model.bias.grad = torch.tensor([[4.0]]), torch.tensor([-3.0])
    assert optimizer.clip_gradients().item() == pytest.approx(5.0)
    assert model.weight.grad.item() == pytest.approx(0.5**0.5 / 2, rel=1e-4)
    assert model.bias.grad.item() == pytest.approx(-(0.5**0.5) / 2, rel=1e-4)


@pytest.mark.parametrize("kind", ["value", "norm"])
def test_parameters_without_a_gradient_are_not_clipped(cfg, kind):
    """A task does not use all heads."""
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = kind
    model = nn.Linear(1, 1)
    optimizer = build_optimizer(cfg, model)
    model.weight.grad = torch.tensor([[4.0]])
    optimizer.clip_gradients()
    assert model.weight.grad.item() == pytest.approx(0.1, rel=1e-4)  # SOLVER.MAX_GRAD_NORM
    assert model.bias.grad is None


def test_norms_and_biases_have_the_weight_decay_of_the_rest_by_default(cfg):
    assert all(g["weight_decay"] == 0.01 for g in build_optimizer(cfg, Normed()).param_groups)


def test_registered_optimizer(cfg):
    def rmsprop(cfg):
        return torch.optim.RMSprop, {"momentum": cfg.SOLVER.MOMENTUM}

    OPTIMIZER_REGISTRY.register(rmsprop)
    try:
        cfg.SOLVER.OPTIMIZER = "RMSprop"
        optimizer = build_optimizer(cfg, Model())
        assert isinstance(optimizer, torch.optim.RMSprop)
        assert {g["momentum"] for g in optimizer.param_groups} == {0.9}
    finally:
        del OPTIMIZER_REGISTRY._obj_map["rmsprop"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["SOLVER.OPTIMIZER", "LION"], "SOLVER.OPTIMIZER is 'LION'; it has to be ADAMW or SGD"),
        (
            [
                *("SOLVER.CLIP_GRADIENTS.ENABLED", True),
                *("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"),
            ],
            "CLIP_TYPE is 'full_model'; .* SOLVER.MAX_GRAD_NORM clips the full gradient",
        ),
    ],
)
def test_impossible_solver_options_name_their_key(cfg, options, message):
    cfg.merge_from_list(options)
    with pytest.raises(InputError, match=message):
        build_optimizer(cfg, Model())


def test_model_without_trainable_parameters_is_an_error(cfg):
    with pytest.raises(InputError, match="every parameter of the model is frozen"):
        build_optimizer(cfg, Model().requires_grad_(False))


class ModelWithoutDecay(SegmentationModel):
    """Model that exempts two of its parameters from weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = nn.Linear(2, 2)
        self.things = nn.Linear(2, 2)

    def parameters_without_weight_decay(self) -> set[str]:
        return {"text_encoder.bias", "things.bias"}


def test_parameters_without_weight_decay_have_groups_of_their_own(cfg):
    model = ModelWithoutDecay()
    groups = build_optimizer(cfg, model).param_groups
    exempt = [group for group in groups if group.get("weight_decay") == 0.0]
    names = {id(p) for group in exempt for p in group["params"]}
    assert names == {id(model.text_encoder.bias), id(model.things.bias)}
    assert sum(len(group["params"]) for group in groups) == 4
    assert {round(group["lr"] / cfg.SOLVER.BASE_LR, 6) for group in exempt} == {0.1, 1.0}
