"""Losses of objects without masks, against direct computations."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from hipie.modeling.criterion.color_affinity import (
    DILATION,
    color_similarity,
    neighbours,
    rgb_to_lab,
)
from hipie.modeling.criterion.losses import WeakLossSettings, bootstrapped_cross_entropy
from hipie.modeling.criterion.stuff_criterion import StuffCriterion
from hipie.modeling.criterion.thing_criterion import ThingCriterion
from hipie.modeling.criterion.weak_losses import (
    different_labels,
    mask_projection,
    point_cross_entropy,
)
from hipie.modeling.matcher.hungarian import CostWeights, HungarianMatcher
from hipie.structures import (
    BOX,
    POINTS,
    SCRIBBLE,
    BatchedTargets,
    MaskContext,
    Supervision,
    Tags,
)
from tests.decoder_outputs import MASK_SIZE, TOKENS

CRITERIA = {"thing": ThingCriterion, "stuff": StuffCriterion}
BOOTSTRAPPED = "mask_bootstrapped_loss"
KINDS = [[True, False, True], [True, True]]
OFFSETS = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]


def test_neighbours_are_the_pixels_around():
    maps = torch.rand(2, 6, 7)
    found = neighbours(maps)
    for k, (dy, dx) in enumerate(OFFSETS):
        for y in range(6):
            for x in range(7):
                row, column = y + DILATION * dy, x + DILATION * dx
                inside = 0 <= row < 6 and 0 <= column < 7
                expected = maps[:, row, column] if inside else torch.zeros(2)
                assert found[:, k, y, x].equal(expected)


def test_lab_colours_are_those_of_scikit_image():
    color = pytest.importorskip("skimage.color", reason="scikit-image is not installed")
    rgb = torch.rand(1, 3, 9, 8)
    rgb[0, :, 0, :4] = torch.tensor([[0.0, 1.0, 0.03, 0.001]])
    expected = color.rgb2lab(rgb[0].permute(1, 2, 0).double().numpy())
    found = rgb_to_lab(rgb)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_similarity_falls_with_the_distance_of_colours_and_is_zero_beyond_the_image():
    colors = torch.zeros(1, 3, 5, 5)
    colors[0, 0, :, 3:] = 6.0
    colors[0, 1, :, 3:] = 8.0
    inside = torch.ones(1, 5, 5, dtype=torch.bool)
    inside[:, 4] = False
    right = color_similarity(colors, inside)[0, OFFSETS.index((0, 1))]
    assert right[0, 0].item() == pytest.approx(1.0)
    assert right[0, 1].item() == pytest.approx(math.exp(-5.0), rel=1e-4)
    assert right[0, 4].item() == 0.0 and right[4].abs().max().item() == 0.0


def test_a_mask_with_the_projections_of_its_box_has_no_projection_loss():
    boxes = torch.zeros(2, 8, 9)
    boxes[0, 2:6, 1:7] = 1
    boxes[1, 0:3, 0:3] = 1
    cross = torch.full((2, 8, 9), -40.0)
    cross[0, 2:6, 3] = 40.0
    cross[0, 4, 1:7] = 40.0
    cross[1, :3, :3] = 40.0
    assert mask_projection(cross, boxes).tolist() == pytest.approx([0, 0], abs=1e-4)
    empty = mask_projection(torch.full((2, 8, 9), -40.0), boxes)
    assert empty.tolist() == pytest.approx([2, 2], abs=1e-4)


def test_probability_of_equal_labels():
    logits = torch.randn(1, 5, 5)
    p = logits.sigmoid()[0]
    found = different_labels(logits)[0]
    k = OFFSETS.index((1, 0))
    expected = -(p[0] * p[2] + (1 - p[0]) * (1 - p[2])).log()
    torch.testing.assert_close(found[k, 0], expected)
    assert found[k, 4].abs().max().item() < 1e-6


@pytest.fixture(params=CRITERIA)
def branch(request):
    return request.param


@pytest.fixture
def batch(branch, make_batch, make_stuff_batch):
    return (make_batch if branch == "thing" else make_stuff_batch)(KINDS)


@pytest.fixture
def losses(branch, batch):
    criterion = CRITERIA[branch](num_points=48)
    criterion.losses = replace(criterion.losses, weak=WeakLossSettings(warmup=0))

    def compute():
        torch.manual_seed(5)
        return batch.run(criterion)

    return compute


def supervise(batch, kind: int, *, similarity: float = 1.0, **changes) -> None:
    """Give all objects of a batch a kind of annotation."""
    for image, target in enumerate(batch.targets):
        masks = Supervision.of_masks(len(target), target.boxes)
        supervision = replace(
            masks,
            kinds=torch.full_like(masks.kinds, kind),
            similarity=torch.full((8, *MASK_SIZE), similarity),
            **{name: make(target) for name, make in changes.items()},
        )
        batch.replace_target(image, supervision=supervision)


def of(losses: dict, name: str) -> torch.Tensor:
    return sum(v for k, v in losses.items() if k.startswith(f"loss_{name}"))


def test_supervision_by_masks_changes_nothing(batch, losses):
    expected = {k: v.item() for k, v in losses().items()}
    batch.replace_target(
        0, supervision=Supervision.of_masks(len(batch.targets[0]), batch.targets[0].boxes)
    )
    found = {k: v.item() for k, v in losses().items()}
    assert {k: found[k] for k in expected} == pytest.approx(expected)
    others = {k for k in found if k not in expected}
    assert {k.split("_")[1] for k in others} == {"projection", "pairwise", "point"}
    assert all(found[k] == 0 for k in others)


def test_boxes_give_projection_and_pairwise_losses_and_no_mask_losses(batch, losses):
    before = losses()
    supervise(batch, BOX)
    after = losses()
    assert of(after, "mask").item() == of(after, "dice").item() == 0
    assert of(after, "projection").item() > 0.1 and of(after, "pairwise").item() > 0.1
    if "loss_ce" in before:
        assert of(after, "bbox").item() == pytest.approx(of(before, "bbox").item())
    supervise(batch, BOX, similarity=0.29)
    assert of(losses(), "pairwise").item() == 0


def test_every_parameter_has_a_gradient_whatever_is_annotated(batch, losses):
    supervise(batch, BOX)
    gradients = torch.autograd.grad(sum(losses().values()), batch.leaves, allow_unused=True)
    masks = [g for g, leaf in zip(gradients, batch.leaves, strict=True) if leaf.ndim == 4]
    assert sum(g is not None and bool(g.any()) for g in masks) >= 3


def test_confidence_weighs_the_losses_of_an_object(batch, losses):
    """Matching does not see scores: half of them gives half of all losses of pairs."""
    whole = losses()
    for image, target in enumerate(batch.targets):
        masks = Supervision.of_masks(len(target), target.boxes)
        batch.replace_target(image, supervision=replace(masks, scores=masks.scores / 2))
    half = losses()
    for name in ("bbox", "giou", "mask", "dice"):
        assert of(half, name).item() == pytest.approx(of(whole, name).item() / 2, rel=1e-4)
    assert of(half, "ce").item() < of(whole, "ce").item()


def random_points(target) -> dict:
    generator = torch.Generator().manual_seed(len(target))
    points = torch.rand(len(target), 7, 2, generator=generator)
    labels = torch.randint(-1, 2, (len(target), 7), generator=generator)
    return {"points": points, "point_labels": labels}


@pytest.mark.parametrize("kind", [POINTS, SCRIBBLE])
def test_unlabelled_pixels_have_no_gradient(batch, losses, kind):
    """A point reads the four pixels of the prediction around it, and no others."""
    supervise(
        batch,
        kind,
        points=lambda target: random_points(target)["points"],
        point_labels=lambda target: random_points(target)["point_labels"],
    )
    found = losses()
    assert (of(found, "bbox").item() > 0) == (kind == POINTS)
    masks = [leaf for leaf in batch.leaves if leaf.ndim == 4]
    total = sum(v for k, v in found.items() if "mask_" in k or "dice" in k or "point" in k)
    gradients = torch.autograd.grad(total, masks, allow_unused=True)
    height, width = MASK_SIZE
    allowed = torch.zeros(len(batch.targets), height, width, dtype=torch.bool)
    for image, target in enumerate(batch.targets):
        supervision = target.supervision
        for x, y in supervision.points[supervision.point_labels >= 0].tolist():
            column, row = x * width - 0.5, y * height - 0.5
            rows = [r for r in (math.floor(row), math.floor(row) + 1) if 0 <= r < height]
            columns = [c for c in (math.floor(column), math.floor(column) + 1) if 0 <= c < width]
            for r in rows:
                allowed[image, r, columns] = True
    touched = torch.zeros_like(allowed)
    for gradient in gradients:
        if gradient is not None:
            touched |= (gradient != 0).any(dim=1)
    assert touched.any() and not (touched & ~allowed).any()


def test_partial_cross_entropy_is_the_mean_of_the_labelled_points():
    logits = torch.tensor([[2.0, -1.0, 5.0], [0.5, 0.5, 0.5]])
    labels = torch.tensor([[1, 0, -1], [-1, -1, -1]])
    p = logits.sigmoid()
    expected = -(p[0, 0].log() + (1 - p[0, 1]).log()) / 2
    assert point_cross_entropy(logits, labels).tolist() == pytest.approx([expected.item(), 0.0])


def test_bootstrapping_mixes_the_prediction_into_the_label():
    """Its gradient is 0.95 of that of cross entropy, and 0.05 of that of the entropy."""
    logits = torch.randn(4, 9, requires_grad=True)
    targets = torch.randint(0, 2, (4, 9)).float()
    (found,) = torch.autograd.grad(bootstrapped_cross_entropy(logits, targets).sum(), logits)
    p = logits.sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    (of_entropy,) = torch.autograd.grad(entropy.sum(), logits, retain_graph=True)
    torch.testing.assert_close(found, 0.95 * (p - targets) + 0.05 * of_entropy)


def test_bootstrapped_masks_are_a_loss_term(batch, branch):
    terms = [t for t in CRITERIA[branch]().losses.terms if t.startswith("mask_")]
    plain, soft = (
        run_terms(batch, branch, (term,)) for term in ("mask_cross_entropy_loss", BOOTSTRAPPED)
    )
    assert terms and soft.keys() == plain.keys()
    assert sum(soft.values()).item() != pytest.approx(sum(plain.values()).item(), rel=1e-4)


def run_terms(batch, branch: str, terms: tuple[str, ...]) -> dict:
    criterion = CRITERIA[branch](num_points=48)
    criterion.losses = replace(criterion.losses, terms=terms)
    torch.manual_seed(5)
    return batch.run(criterion)


def test_matching_by_points_alone(make_stuff_batch):
    """Without boxes and classes as costs an object takes the query whose mask has its points."""
    batch = make_stuff_batch([[True, True]], layers=1, groups=0)
    supervise(
        batch,
        SCRIBBLE,
        points=lambda target: torch.tensor([[[0.2, 0.2], [0.8, 0.8]]] * 2),
        point_labels=lambda target: torch.tensor([[1, 0], [0, 1]]),
    )
    masks = torch.zeros(1, 14, *MASK_SIZE)
    masks[0, 9, :8, :12], masks[0, 9, 8:] = 9.0, -9.0
    masks[0, 4] = -masks[0, 9]
    layer = replace(batch.output.layers[0], mask_embeddings=masks.flatten(2))
    matcher = HungarianMatcher(CostWeights(0.0, 0.0, 0.0, 1.0, 1.0), num_points=16)
    context = MaskContext(batch.mask_head, batch.output.mask_features)
    matching = matcher(layer, BatchedTargets.concatenate(batch.targets), context)
    pairs = dict(zip(matching.target_index.tolist(), matching.query_index.tolist(), strict=True))
    assert pairs == {0: 9, 1: 4}


def test_tags_raise_the_best_query_and_lower_absent_classes(batch, losses):
    """Class 0 has the tokens 0 and 1; in images of tags the other queries do not learn it."""
    for image, target in enumerate(batch.targets):
        present = torch.zeros(1, TOKENS, dtype=torch.bool)
        present[0, :2] = True
        absent = batch.text_mask[image] & ~present[0]
        none = target.is_thing & False
        empty = {
            "labels": target.labels[none],
            "boxes": target.boxes[none],
            "masks": target.masks[none],
            "is_thing": target.is_thing[none],
            "positive_map": target.positive_map[none],
        }
        batch.replace_target(image, tags=Tags(present, torch.tensor([True]), absent), **empty)
    batch.output = replace(batch.output, denoising=(), denoising_layout=None)
    found = losses()
    assert {k.split("_")[1] for k, v in found.items() if v.item() > 0} == {"tag"}
    logits = batch.output.layers[-1].logits
    (gradient,) = torch.autograd.grad(sum(found.values()), logits)
    assert ((gradient[0, :, :2] < 0).any(dim=1)).sum() == 1
    assert int(gradient[0, :, :2].sum(1).argmin()) == int(logits[0, :, :2].sum(1).argmax())
    assert (gradient[0, :, 2:7] > 0).all() and (gradient[0, :, 7:] == 0).all()
