"""Pixels of unknown class: no loss there, and the usual loss everywhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hipie.modeling.criterion.ignored_pixels import ignored_share
from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.criterion.thing_criterion import ThingCriterion
from hipie.structures import CROWD, UNLABELLED, IgnoredPixels
from tests.decoder_outputs import CANVAS

CRITERIA = {"thing": ThingCriterion, "stuff": StuffCriterion}
KINDS = [[True, False, True], [True, True]]


@pytest.fixture(params=CRITERIA)
def branch(request):
    return request.param


@pytest.fixture
def batch(branch, make_batch, make_stuff_batch):
    return (make_batch if branch == "thing" else make_stuff_batch)(KINDS)


@pytest.fixture
def losses(branch, batch):
    criterion = CRITERIA[branch](num_points=48)

    def compute():
        torch.manual_seed(5)
        return batch.run(criterion)

    return compute


def numbers(losses: dict) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


def test_maps_without_ignored_pixels_change_nothing(batch, losses):
    expected = numbers(losses())
    batch.replace_target(0, ignored=torch.zeros(CANVAS, dtype=torch.uint8))
    assert numbers(losses()) == pytest.approx(expected)


def test_ground_truth_of_unlabelled_pixels_does_not_count(batch, losses):
    """Neither in the losses nor in the matching: masks change there, everything else is equal."""
    half = CANVAS[1] // 2
    ignored = torch.zeros(CANVAS, dtype=torch.uint8)
    ignored[:, :half] = UNLABELLED
    original = batch.targets[0].masks
    masks = original.clone()
    masks[:, :, : half - 8] ^= True
    counted = sum(losses().values()).item()
    batch.replace_target(0, masks=masks)
    assert sum(losses().values()).item() != pytest.approx(counted, rel=1e-3)

    batch.replace_target(0, ignored=ignored)
    changed = numbers(losses())
    batch.replace_target(0, masks=original)
    assert changed == pytest.approx(numbers(losses()), rel=1e-5)
    assert sum(changed.values()) != pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("value", [CROWD, UNLABELLED])
def test_queries_on_ignored_pixels_are_no_negatives(batch, losses, value):
    """Image 0 is ignored: of its queries only those with an object have a class loss."""
    logits = batch.output.layers[-1].logits

    def gradient():
        computed = losses()
        loss = next(v for k, v in computed.items() if k in ("loss_ce", "loss_ce_maskdino"))
        (result,) = torch.autograd.grad(loss, logits, retain_graph=True)
        return result

    before = gradient()
    batch.replace_target(0, ignored=torch.full(CANVAS, value, dtype=torch.uint8))
    after = gradient()
    assert (before[0] != 0).any(dim=1).all()
    has_loss = (after[0] != 0).any(dim=1)
    assert 0 < has_loss.sum() < len(has_loss)
    # A positive token pulls its logit up; queries that keep a loss are those with an object.
    assert ((after[0] < 0).any(dim=1) == has_loss).all()
    assert torch.equal(after[1], before[1])


def test_crowds_give_mask_losses(batch, losses):
    expected = numbers(losses())
    batch.replace_target(0, ignored=torch.full(CANVAS, CROWD, dtype=torch.uint8))
    computed = numbers(losses())
    different = {name.split("_")[1] for name in expected if computed[name] != expected[name]}
    assert different == {"ce"}


def test_share_of_boxes_is_that_of_their_pixels():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 3, (2, 40, 60), generator=generator, dtype=torch.uint8)
    ignored = IgnoredPixels(values, torch.tensor([[1.0, 1.0], [0.5, 0.75]]))
    boxes = torch.rand(2, 30, 4, generator=generator)
    boxes[:, :5] *= 1.5
    boxes[:, -1] = 0
    shares = ignored_share(ignored, boxes)
    for image, (across, down) in enumerate(((60, 40), (30, 30))):
        for query, (x, y, w, h) in enumerate(boxes[image].tolist()):
            rows = slice(max(0, round((y - h / 2) * down)), max(0, round((y + h / 2) * down)))
            columns = slice(
                max(0, round((x - w / 2) * across)), max(0, round((x + w / 2) * across))
            )
            pixels = values[image, rows, columns] > 0
            expected = pixels.float().mean().item() if pixels.numel() else 0.0
            assert shares[image, query].item() == pytest.approx(expected, abs=1e-5)


def test_boxes_are_in_the_frame_of_the_decoder(make_batch):
    targets = make_batch(KINDS).targets
    assert IgnoredPixels.of_targets(targets, on_canvas=False) is None
    ignored = torch.zeros(CANVAS, dtype=torch.uint8)
    small = (CANVAS[0] // 2, CANVAS[1] // 4)
    targets[1] = replace(targets[1], image_size=small, ignored=ignored)
    of_image = IgnoredPixels.of_targets(targets, on_canvas=False)
    on_canvas = IgnoredPixels.of_targets(targets, on_canvas=True)
    assert of_image is not None and on_canvas is not None
    assert of_image.frames.tolist() == [[1.0, 1.0], [0.25, 0.5]]
    assert on_canvas.frames.tolist() == [[1.0, 1.0]] * 2
