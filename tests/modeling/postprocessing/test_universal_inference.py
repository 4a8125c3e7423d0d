"""Results of one image of a batch, from hand-made predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from hipie.modeling.postprocessing.referring_inference import referring_inference
from hipie.modeling.postprocessing.universal_inference import (
    InferenceSettings,
    universal_inference,
)

SPANS = ((1,), (3,), (5,))
IS_THING = (True, True, False)
SETTINGS = InferenceSettings()
FAR = 12.0


@dataclass
class Answer:
    """A decoder layer's answer with its masks at hand."""

    token_logits: Tensor
    boxes: Tensor
    iou_logits: Tensor | None
    all_masks: Tensor

    def masks(self, image: Tensor, query: Tensor) -> Tensor:
        return self.all_masks[image, query]


def words(*classes: int) -> Tensor:
    """[Q, 7] logits: each query is sure of one class; -1 is sure of none."""
    logits = torch.full((len(classes), 7), -FAR)
    for query, k in enumerate(classes):
        if k >= 0:
            logits[query, SPANS[k][0]] = FAR
    return logits


def quarter(*places: tuple[slice, slice]) -> Tensor:
    """[Q, 8, 8] mask logits that are on in the given places of a 32x32 canvas."""
    masks = torch.full((len(places), 8, 8), -FAR)
    for mask, place in zip(masks, places, strict=True):
        mask[place] = FAR
    return masks


LEFT, RIGHT = (slice(None), slice(0, 4)), (slice(None), slice(4, 8))


@pytest.fixture
def things() -> Answer:
    """Row 1 of a batch: one background query, a dog left, its double, a cat right."""
    boxes = torch.tensor(
        [[0.5, 0.5, 1, 1], [0.25, 0.5, 0.5, 1], [0.26, 0.5, 0.5, 1], [0.75, 0.5, 0.5, 1]]
    )
    logits = words(2, 0, 0, 1)
    quality = torch.tensor([[9.0], [4.0], [1.0], [3.5]])
    masks = quarter((slice(None), slice(None)), LEFT, LEFT, RIGHT)
    other = torch.zeros_like(logits)
    return Answer(
        torch.stack([other, logits]),
        torch.stack([torch.rand(4, 4), boxes]),
        torch.stack([quality, quality]),
        torch.stack([torch.zeros_like(masks), masks]),
    )


@pytest.fixture
def stuff() -> Answer:
    """Row 1: grass below, rather sure (and as sure of a dog, which is not its business)."""
    logits = 0.1 * words(2).maximum(words(0))[None].repeat(2, 1, 1)
    masks = quarter((slice(4, 8), slice(None)))[None].repeat(2, 1, 1, 1)
    return Answer(logits, torch.rand(2, 1, 4), None, masks)


def run(things: Answer, stuff: Answer, settings: InferenceSettings = SETTINGS, **changes):
    arguments = {
        "image": 1,
        "num_background": 1,
        "token_spans": SPANS,
        "is_thing": IS_THING,
        "input_size": (32, 32),
        "output_size": (64, 48),
    }
    return universal_inference(things, stuff, settings=settings, **{**arguments, **changes})


def test_instances_in_pixels_of_the_output(things: Answer, stuff: Answer) -> None:
    found = run(things, stuff)["instances"]
    assert found.image_size == (64, 48)
    assert found.pred_classes[:2].tolist() == [0, 1]
    assert found.scores[:2] == pytest.approx([0.991, 0.985], abs=1e-3)
    assert found.scores[2:].max() < 0.01
    boxes = found.pred_boxes.tensor[:2]
    assert torch.allclose(boxes, torch.tensor([[0.0, 0, 24, 64], [24, 0, 48, 64]]))
    assert found.pred_masks[0, :, :23].all() and not found.pred_masks[0, :, 25:].any()
    assert 2 not in found.pred_classes


def test_maps_hold_things_and_stuff(things: Answer, stuff: Answer) -> None:
    results = run(things, replace(stuff, token_logits=stuff.token_logits + 3))
    assert results["sem_seg"].shape == (3, 64, 48)
    panoptic, segments = results["panoptic_seg"]
    labels = {one["id"]: (one["category_id"], one["isthing"]) for one in segments}
    assert labels[int(panoptic[5, 5])] == (0, True)
    assert labels[int(panoptic[5, 40])] == (1, True)
    top = results["sem_seg"].argmax(0)
    assert top[5, 5] == 0 and top[5, 40] == 1
    assert results["sem_seg"][2, 60].min() > 0.9
    assert results["sem_seg"][2, :30].max() < 0.1


def test_the_stuff_branch_may_keep_its_thing_scores(things: Answer, stuff: Answer) -> None:
    below = (slice(0, 1), slice(56, 64))
    apart = run(things, stuff)["sem_seg"][below].mean()
    joined = run(things, stuff, replace(SETTINGS, thing_scores_from_stuff_decoder=True))["sem_seg"]
    assert joined[below].mean() > apart + 0.3
    only = run(things, stuff, replace(SETTINGS, panoptic_from_stuff_decoder_only=True))
    assert only["sem_seg"][:, :24].sum() < 1e-2 < only["sem_seg"][0, 60].mean()
    assert len(only["instances"]) > 0


def test_a_vocabulary_of_things_and_the_stuff_branch(things: Answer, stuff: Answer) -> None:
    """As published its queries count for all classes alike; where few classes count as many, no."""
    everywhere = replace(stuff, all_masks=torch.full_like(stuff.all_masks, FAR))
    arguments = {"is_thing": (True, True, True)}
    padded = run(things, everywhere, replace(SETTINGS, min_softmax_classes=133), **arguments)
    _, segments = padded["panoptic_seg"]
    assert [one["category_id"] for one in segments] == [0, 1]
    published = run(things, everywhere, **arguments)["sem_seg"]
    third = torch.full_like(published, 1 / 3)
    torch.testing.assert_close(published - padded["sem_seg"], third, atol=1e-4, rtol=0)


def test_a_vocabulary_of_stuff_uses_both_branches(things: Answer, stuff: Answer) -> None:
    results = run(things, stuff, is_thing=(False, False, False))
    assert {0, 1} <= set(results["instances"].pred_classes.tolist())
    assert not any(one["isthing"] for one in results["panoptic_seg"][1])


def test_only_what_is_asked_for(things: Answer, stuff: Answer) -> None:
    off = InferenceSettings(instance_on=False, semantic_on=False, panoptic_on=False)
    assert run(things, stuff, off) == {}
    alone = run(things, stuff, replace(off, panoptic_on=True))
    assert list(alone) == ["panoptic_seg"]
    whole = run(things, stuff)["panoptic_seg"]
    assert torch.equal(alone["panoptic_seg"][0], whole[0])
    assert alone["panoptic_seg"][1] == whole[1]


def test_a_map_that_no_query_joins_is_empty(things: Answer, stuff: Answer) -> None:
    alone = replace(SETTINGS, instance_on=False, semantic_on=False, object_mask_threshold=1.0)
    panoptic, segments = run(things, stuff, alone)["panoptic_seg"]
    assert panoptic.shape == (64, 48) and not panoptic.any() and segments == []


def test_one_name_is_not_always_sure(things: Answer, stuff: Answer) -> None:
    things.token_logits = 0.15 * things.token_logits
    one = {"token_spans": SPANS[:1], "is_thing": IS_THING[:1]}
    published = run(things, stuff, **one)
    assert len(published["panoptic_seg"][1]) == 2
    large = replace(SETTINGS, min_softmax_classes=133)
    segments = run(things, stuff, large, **one)["panoptic_seg"][1]
    assert [one["score"] for one in segments] == pytest.approx([0.9999], abs=1e-4)
    added = published["sem_seg"] - run(things, stuff, large, **one)["sem_seg"]
    assert added[0, :24].max() < 1e-4 and added[0, 40:].min() > 0.99, "the stuff branch's mask"


def test_permuting_classes_permutes_results_and_nothing_else(things: Answer, stuff: Answer) -> None:
    order = [2, 0, 1]
    straight = run(things, stuff)
    turned = run(
        things,
        stuff,
        token_spans=[SPANS[k] for k in order],
        is_thing=[IS_THING[k] for k in order],
    )
    assert torch.allclose(turned["sem_seg"], straight["sem_seg"][order], atol=1e-6)
    assert torch.equal(turned["panoptic_seg"][0], straight["panoptic_seg"][0])
    labels = [order[k] for k in turned["instances"].pred_classes[:2].tolist()]
    assert labels == straight["instances"].pred_classes[:2].tolist()


def test_empty_boxes_are_left_out(things: Answer, stuff: Answer) -> None:
    things.boxes[1, 3] = torch.tensor([1.5, 0.5, 0.2, 0.2])
    found = run(things, stuff)["instances"]
    assert len(found) == len(found.pred_masks)
    assert found.pred_boxes.nonempty().all()
    assert found.scores[found.pred_classes == 1].max() < 0.01


def test_bfloat16_predictions_under_autocast(things: Answer, stuff: Answer) -> None:
    exact = run(things, stuff)
    with torch.autocast("cpu", torch.bfloat16):
        things.token_logits = things.token_logits.bfloat16()
        results = run(things, stuff)
    assert results["sem_seg"].dtype == torch.float32
    assert torch.equal(results["panoptic_seg"][0], exact["panoptic_seg"][0])


def test_the_described_thing(things: Answer) -> None:
    things.token_logits = things.token_logits[:, :, 3:4]
    best = referring_inference(
        things, pair=1, num_background=1, input_size=(32, 32), output_size=(64, 48)
    )
    assert len(best) == 1
    assert best.pred_classes.tolist() == [0]
    assert best.pred_masks[0, :, 25:].all() and not best.pred_masks[0, :, :23].any()
