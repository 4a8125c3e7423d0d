"""The joining formulas in float64, number by number."""

from __future__ import annotations

import math

import pytest
import torch

from hipie.modeling.open_vocabulary.score_ensemble import ScoreEnsemble

SEEN, THING = (True, False, True, False), (True, True, False, False)


@pytest.fixture
def opinions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(6, 4, generator=generator).softmax(-1) for _ in range(2))


def test_every_class_has_the_weight_of_its_kind():
    ensemble = ScoreEnsemble(seen=(0.1, 0.2), unseen=(0.3, 0.4))
    assert ensemble.weights(SEEN, THING).tolist() == pytest.approx([0.1, 0.3, 0.2, 0.4])


@pytest.mark.parametrize("way", ["multiply", "add"])
def test_join_against_the_formula(opinions, way):
    own, clip = opinions
    ensemble = ScoreEnsemble((0.1, 0.2), (0.3, 0.4), way)
    joined = ensemble.join(own, clip, ensemble.weights(SEEN, THING))
    for q in range(6):
        for k, a in enumerate((0.1, 0.3, 0.2, 0.4)):
            p, c = float(own[q, k]), float(clip[q, k])
            said = p ** (1 - a) * c**a if way == "multiply" else (1 - a) * p + a * c + 1e-9
            assert float(joined[q, k]) == pytest.approx(math.log(said), abs=1e-5)


def test_weight_0_is_the_model_alone_and_1_is_clip_alone(opinions):
    own, clip = opinions
    for weight, expected in ((0.0, own), (1.0, clip)):
        for way in ("multiply", "add"):
            ensemble = ScoreEnsemble((weight,) * 2, (weight,) * 2, way)
            weights = ensemble.weights(SEEN, THING)
            torch.testing.assert_close(ensemble.panoptic_scores(own, clip, weights), expected)
    # Even where the other is quite sure that it is not so.
    own, clip = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    alone = ScoreEnsemble((1.0, 1.0), (1.0, 1.0))
    assert alone.panoptic_scores(own, clip, torch.ones(2)).tolist() == [[1.0, 0.0]]


def test_thing_scores_against_the_formula(opinions):
    clip = opinions[1]
    generator = torch.Generator().manual_seed(1)
    logits, quality = (
        torch.randn(6, n, generator=generator, dtype=torch.float64) * 3 for n in (4, 1)
    )
    logits[:, 3] = -9999
    ensemble = ScoreEnsemble((0.2, 0.2), (0.45, 0.45), thing_temperature=0.01)
    weights = ensemble.weights(SEEN, THING)
    found = ensemble.instance_scores(logits, quality, clip, weights)
    sure = 1 / (1 + (-logits).exp()) / 0.01
    own = (sure - sure.amax(1, keepdim=True)).exp()
    own = own / own.sum(1, keepdim=True)
    for q in range(6):
        for k, a in enumerate((0.2, 0.45, 0.2)):
            x = float(own[q, k]) ** (1 - a) * float(clip[q, k]) ** a
            iou = 1 / (1 + math.exp(-float(quality[q, 0])))
            said = math.sqrt((x / (1 + x)) ** 0.3 * iou**1.7)
            assert float(found[q, k]) == pytest.approx(said, rel=1e-4, abs=1e-6)
    assert (found[:, 3] == 0).all()


def test_one_class_is_judged_by_a_sigmoid():
    ensemble = ScoreEnsemble((0.5, 0.5), (0.5, 0.5))
    logits, quality = torch.tensor([[0.4]]), torch.tensor([[2.0]])
    found = ensemble.instance_scores(logits, quality, torch.tensor([[0.3]]), torch.tensor([0.5]))
    x = math.sqrt(1 / (1 + math.exp(-0.4)) * 0.3)
    iou = 1 / (1 + math.exp(-2))
    assert float(found) == pytest.approx(math.sqrt((x / (1 + x)) ** 0.3 * iou**1.7), abs=1e-6)


def test_what_a_small_vocabulary_leaves_out_stays_out(opinions):
    own, clip = opinions
    ensemble = ScoreEnsemble()
    weights = ensemble.weights(SEEN, THING)
    found = ensemble.panoptic_scores(own * 0.25, clip, weights)
    torch.testing.assert_close(found.sum(-1), torch.full((6,), 0.25))
    torch.testing.assert_close(found * 4, ensemble.panoptic_scores(own, clip, weights))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"way": "max"}, "none of multiply, add"),
        ({"seen": (0.2,)}, "two numbers in 0..1"),
        ({"unseen": (0.2, 1.2)}, "two numbers in 0..1"),
        ({"thing_temperature": 0.0}, "positive"),
    ],
)
def test_settings_that_cannot_work(wrong, said):
    with pytest.raises(ValueError, match=said):
        ScoreEnsemble(**wrong)
