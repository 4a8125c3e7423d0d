"""Gradients of a batch in micro-batches equal those of the whole batch."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hipie.config import add_hipie_config
from hipie.engine.accumulation import accumulate_gradients, split_batch
from hipie.errors import InputError
from hipie.modeling.criterion.normalizer_averaging import MicroBatchCounts
from tests.modeling.meta_arch import distributed_gradients as batches


class MeanLoss(nn.Module):
    """Model whose losses are means over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2).double()

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        squares = self.layer(batch).pow(2)
        return {"loss_first": squares[:, 0].mean(), "loss_second": squares[:, 1].mean()}


def gradients_of(model: nn.Module, micro_batches: list) -> tuple[dict, dict]:
    """Losses and gradients of all micro-batches together."""
    model.zero_grad()
    losses = accumulate_gradients(
        model,
        micro_batches,
        lambda loss: loss.backward(),
        before_forward=lambda _: nullcontext(),
    )
    return losses, {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


@pytest.mark.parametrize(("size", "steps", "sizes"), [(6, 3, [2, 2, 2]), (5, 3, [1, 2, 2])])
def test_batches_are_split_in_order(size, steps, sizes):
    parts = split_batch(list(range(size)), steps)
    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part] == list(range(size))


def test_batch_with_fewer_images_than_micro_batches_is_an_error():
    with pytest.raises(InputError, match="SOLVER.ACCUMULATION_STEPS is 3, .* batches of 2"):
        split_batch([1, 2], 3)


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_mean_losses_of_unequal_micro_batches_are_those_of_the_batch(steps):
    model, batch = MeanLoss(), torch.randn(5, 3, dtype=torch.float64)
    losses, gradients = gradients_of(model, [batch])
    split_losses, split_gradients = gradients_of(model, split_batch(batch, steps))
    for name in losses:
        assert split_losses[name].item() == pytest.approx(losses[name].item(), rel=1e-12)
        assert not split_losses[name].requires_grad
    for name in gradients:
        torch.testing.assert_close(split_gradients[name], gradients[name], rtol=1e-12, atol=0)


@pytest.fixture
def replaced_random_numbers(monkeypatch):
    """An image has the same random numbers in any batch."""
    for name in ("rand", "rand_like", "randint_like"):
        monkeypatch.setattr(torch, name, getattr(torch, name))
    batches.replace_random_numbers()


@pytest.fixture
def hipie_model(tiny_options, replaced_random_numbers):
    """`tests/tiny.yaml`, whose normalizers are averaged by default, with all heads random."""
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.merge_from_file(str(batches.ROOT / "tests/tiny.yaml"))
    cfg.merge_from_list([*tiny_options, "MODEL.HIPIE.THINGS.FUSION_DROPOUT", 0.0])
    return batches.randomize_zero_heads(build_model(cfg)).train()


CASES = {
    "detection": ("detection", [[1, 0, 2], [0], [1, 2, 3]], 2),
    "parts": ("parts", [[1, 0, 2], [1, 2, 3]], 2),
    "expressions about one object or none": ("referring", [[0], [], [0]], 3),
    "empty, stuff, things and 30 objects": ("detection", [[], [2], [0, 1], batches.MANY], 4),
    "all empty": ("detection", [[], []], 2),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_of_hipie_are_those_of_the_batch(hipie_model, case):
    task, classes, steps = CASES[case]
    batch = batches.batch_of(task, classes)
    losses, gradients = gradients_of(hipie_model, [batch])
    split_losses, split_gradients = gradients_of(hipie_model, split_batch(batch, steps))
    assert list(losses) == list(split_losses)
    for name, loss in losses.items():
        assert float(split_losses[name]) == pytest.approx(float(loss), rel=1e-4, abs=1e-5), name
    assert gradients.keys() == split_gradients.keys()
    largest = max(float(g.abs().max()) for g in gradients.values())
    for name, gradient in gradients.items():
        error = float((split_gradients[name] - gradient).abs().max())
        assert error < 2e-5 * max(1.0, largest), (name, error, largest)


def test_local_normalizers_give_other_gradients(hipie_model):
    """The comparison above would fail without the counts of the whole batch."""
    task, classes, steps = CASES["empty, stuff, things and 30 objects"]
    batch = batches.batch_of(task, classes)
    _, expected = gradients_of(hipie_model, [batch])
    hipie_model.average_normalizers = False
    _, gradients = gradients_of(hipie_model, split_batch(batch, steps))
    largest = max(float(g.abs().max()) for g in expected.values())
    errors = [float((gradients[name] - g).abs().max()) for name, g in expected.items()]
    assert max(errors) > 1e-2 * largest


def test_counting_leaves_running_statistics_alone():
    calls = []

    class Model(nn.Module):
        average_normalizers = True

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, batch):
            calls.append(torch.is_grad_enabled())
            return {"loss": self.norm(batch).sum() + 0 * sum(p.sum() for p in self.parameters())}

    model = Model()
    gradients_of(model, split_batch(torch.randn(8, 3), 2))
    assert calls == [False, False, True, True]
    assert model.norm.num_batches_tracked == 2


def test_counts_of_another_number_of_calls_are_an_error():
    counts = MicroBatchCounts([0.5, 0.5])
    with counts.counting():
        counts.reduce(torch.ones(2), torch.add, lambda v: v)
    with counts.averaging(0):
        assert counts.reduce(torch.ones(2), torch.add, lambda v: v).tolist() == [1, 1]
        with pytest.raises(IndexError):
            counts.reduce(torch.ones(2), torch.add, lambda v: v)


@pytest.fixture
def one_process_group():
    """A gloo group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_processes_exchange_gradients_once_a_step(one_process_group):
    batch = torch.randn(6, 3, dtype=torch.float64)
    model = MeanLoss()
    _, expected = gradients_of(model, [batch])
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    exchanges = []

    def count(_, bucket):
        exchanges.append(bucket.index())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    wrapped.register_comm_hook(None, count)
    _, gradients = gradients_of(wrapped, split_batch(batch, 3))
    assert exchanges == [0]
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[f"module.{name}"], gradient, rtol=1e-12, atol=0)
