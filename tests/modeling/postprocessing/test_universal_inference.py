"""Results of one image from constructed predictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hipie.modeling.postprocessing.referring_inference import referring_inference
from hipie.modeling.postprocessing.universal_inference import (
    InferenceSettings,
    universal_inference,
)
from hipie.structures import ImageQueries, LayerOutput
from tests.decoder_outputs import StoredMasks

SPANS = ((1,), (3,), (5,))
IS_THING = (True, True, False)
SETTINGS = InferenceSettings()
FAR = 12.0


def class_logits(*classes: int) -> Tensor:
    """[Q, 7] logits: each query has one class of high probability; -1 = none."""
    logits = torch.full((len(classes), 7), -FAR)
    for query, k in enumerate(classes):
        if k >= 0:
            logits[query, SPANS[k][0]] = FAR
    return logits


def quarter_masks(*regions: tuple[slice, slice]) -> Tensor:
    """[Q, 8, 8] mask logits that are on in the given regions of a 32x32 canvas."""
    masks = torch.full((len(regions), 8, 8), -FAR)
    for mask, region in zip(masks, regions, strict=True):
        mask[region] = FAR
    return masks


LEFT, RIGHT = (slice(None), slice(0, 4)), (slice(None), slice(4, 8))


@pytest.fixture
def things() -> ImageQueries:
    """A dog on the left, its duplicate, and a cat on the right."""
    layer = LayerOutput(
        boxes=torch.tensor([[[0.25, 0.5, 0.5, 1], [0.26, 0.5, 0.5, 1], [0.75, 0.5, 0.5, 1]]]),
        logits=class_logits(0, 0, 1)[None],
        mask_embeddings=quarter_masks(LEFT, LEFT, RIGHT).flatten(1)[None],
        iou_logits=torch.tensor([[[4.0], [1.0], [3.5]]]),
    )
    return ImageQueries(layer, StoredMasks((8, 8)), (torch.zeros(1, 8, 8),))


@pytest.fixture
def stuff() -> ImageQueries:
    """Grass at the bottom with a high logit, and an equal logit of the dog, which is a thing."""
    layer = LayerOutput(
        boxes=torch.rand(1, 1, 4),
        logits=0.1 * class_logits(2).maximum(class_logits(0))[None],
        mask_embeddings=quarter_masks((slice(4, 8), slice(None))).flatten(1)[None],
    )
    return ImageQueries(layer, StoredMasks((8, 8)), (torch.zeros(1, 8, 8),))


def changed(queries: ImageQueries, **tensors: Tensor) -> ImageQueries:
    """The same queries with other predictions."""
    return replace(queries, layer=replace(queries.layer, **tensors))


def run(
    things: ImageQueries, stuff: ImageQueries, settings: InferenceSettings = SETTINGS, **changes
):
    arguments = {
        "token_spans": SPANS,
        "is_thing": IS_THING,
        "input_size": (32, 32),
        "output_size": (64, 48),
    }
    return universal_inference(things, stuff, settings=settings, **{**arguments, **changes})


def test_instances_in_pixels_of_the_output(things: ImageQueries, stuff: ImageQueries) -> None:
    instances = run(things, stuff)["instances"]
    assert instances.image_size == (64, 48)
    assert instances.pred_classes[:2].tolist() == [0, 1]
    assert instances.scores[:2] == pytest.approx([0.991, 0.985], abs=1e-3)
    assert instances.scores[2:].max() < 0.01
    boxes = instances.pred_boxes.tensor[:2]
    assert torch.allclose(boxes, torch.tensor([[0.0, 0, 24, 64], [24, 0, 48, 64]]))
    assert instances.pred_masks[0, :, :23].all() and not instances.pred_masks[0, :, 25:].any()
    assert 2 not in instances.pred_classes


def test_maps_hold_things_and_stuff(things: ImageQueries, stuff: ImageQueries) -> None:
    results = run(things, changed(stuff, logits=stuff.layer.logits + 3))
    assert results["sem_seg"].shape == (3, 64, 48)
    panoptic, segments = results["panoptic_seg"]
    labels = {segment["id"]: (segment["category_id"], segment["isthing"]) for segment in segments}
    assert labels[int(panoptic[5, 5])] == (0, True)
    assert labels[int(panoptic[5, 40])] == (1, True)
    top = results["sem_seg"].argmax(0)
    assert top[5, 5] == 0 and top[5, 40] == 1
    assert results["sem_seg"][2, 60].min() > 0.9
    assert results["sem_seg"][2, :30].max() < 0.1


def test_stuff_decoder_keeps_its_thing_scores_by_option(
    things: ImageQueries, stuff: ImageQueries
) -> None:
    below = (slice(0, 1), slice(56, 64))
    apart = run(things, stuff)["sem_seg"][below].mean()
    joined = run(things, stuff, replace(SETTINGS, thing_scores_from_stuff_decoder=True))["sem_seg"]
    assert joined[below].mean() > apart + 0.3
    only = run(things, stuff, replace(SETTINGS, panoptic_from_stuff_decoder_only=True))
    assert only["sem_seg"][:, :24].sum() < 1e-2 < only["sem_seg"][0, 60].mean()
    assert len(only["instances"]) > 0


def test_stuff_decoder_with_a_vocabulary_of_things(
    things: ImageQueries, stuff: ImageQueries
) -> None:
    """As published its queries count for all classes alike; not with `min_softmax_classes`."""
    embeddings = stuff.layer.mask_embeddings
    everywhere = changed(stuff, mask_embeddings=torch.full_like(embeddings, FAR))
    arguments = {"is_thing": (True, True, True)}
    padded = run(things, everywhere, replace(SETTINGS, min_softmax_classes=133), **arguments)
    _, segments = padded["panoptic_seg"]
    assert [segment["category_id"] for segment in segments] == [0, 1]
    published = run(things, everywhere, **arguments)["sem_seg"]
    third = torch.full_like(published, 1 / 3)
    torch.testing.assert_close(published - padded["sem_seg"], third, atol=1e-4, rtol=0)


def test_vocabulary_of_stuff_uses_both_decoders(things: ImageQueries, stuff: ImageQueries) -> None:
    results = run(things, stuff, is_thing=(False, False, False))
    assert {0, 1} <= set(results["instances"].pred_classes.tolist())
    assert not any(segment["isthing"] for segment in results["panoptic_seg"][1])


def test_only_requested_results_are_computed(things: ImageQueries, stuff: ImageQueries) -> None:
    off = InferenceSettings(instance_on=False, semantic_on=False, panoptic_on=False)
    assert run(things, stuff, off) == {}
    alone = run(things, stuff, replace(off, panoptic_on=True))
    assert list(alone) == ["panoptic_seg"]
    complete = run(things, stuff)["panoptic_seg"]
    assert torch.equal(alone["panoptic_seg"][0], complete[0])
    assert alone["panoptic_seg"][1] == complete[1]


def test_panoptic_map_without_candidates_is_empty(
    things: ImageQueries, stuff: ImageQueries
) -> None:
    alone = replace(SETTINGS, instance_on=False, semantic_on=False, object_mask_threshold=1.0)
    panoptic, segments = run(things, stuff, alone)["panoptic_seg"]
    assert panoptic.shape == (64, 48) and not panoptic.any() and segments == []


def test_score_of_a_single_class_is_that_of_a_large_vocabulary(
    things: ImageQueries, stuff: ImageQueries
) -> None:
    things = changed(things, logits=0.15 * things.layer.logits)
    single = {"token_spans": SPANS[:1], "is_thing": IS_THING[:1]}
    published = run(things, stuff, **single)
    assert len(published["panoptic_seg"][1]) == 2
    large = replace(SETTINGS, min_softmax_classes=133)
    segments = run(things, stuff, large, **single)["panoptic_seg"][1]
    assert [segment["score"] for segment in segments] == pytest.approx([0.9999], abs=1e-4)
    added = published["sem_seg"] - run(things, stuff, large, **single)["sem_seg"]
    assert added[0, :24].max() < 1e-4 and added[0, 40:].min() > 0.99, "the stuff branch's mask"


def test_permuted_classes_permute_results(things: ImageQueries, stuff: ImageQueries) -> None:
    order = [2, 0, 1]
    expected = run(things, stuff)
    permuted = run(
        things,
        stuff,
        token_spans=[SPANS[k] for k in order],
        is_thing=[IS_THING[k] for k in order],
    )
    assert torch.allclose(permuted["sem_seg"], expected["sem_seg"][order], atol=1e-6)
    assert torch.equal(permuted["panoptic_seg"][0], expected["panoptic_seg"][0])
    labels = [order[k] for k in permuted["instances"].pred_classes[:2].tolist()]
    assert labels == expected["instances"].pred_classes[:2].tolist()


def test_empty_boxes_are_left_out(things: ImageQueries, stuff: ImageQueries) -> None:
    things.layer.boxes[0, 2] = torch.tensor([1.5, 0.5, 0.2, 0.2])
    instances = run(things, stuff)["instances"]
    assert len(instances) == len(instances.pred_masks)
    assert instances.pred_boxes.nonempty().all()
    assert instances.scores[instances.pred_classes == 1].max() < 0.01


def test_bfloat16_predictions_under_autocast(things: ImageQueries, stuff: ImageQueries) -> None:
    exact = run(things, stuff)
    with torch.autocast("cpu", torch.bfloat16):
        results = run(changed(things, logits=things.layer.logits.bfloat16()), stuff)
    assert results["sem_seg"].dtype == torch.float32
    assert torch.equal(results["panoptic_seg"][0], exact["panoptic_seg"][0])


def test_referring_inference_gives_the_best_query(things: ImageQueries) -> None:
    things = changed(things, logits=things.layer.logits[:, :, 3:4])
    best = referring_inference(things, input_size=(32, 32), output_size=(64, 48))
    assert len(best) == 1
    assert best.pred_classes.tolist() == [0]
    assert best.pred_masks[0, :, 25:].all() and not best.pred_masks[0, :, :23].any()


def test_masks_are_computed_once(things: ImageQueries, stuff: ImageQueries) -> None:
    """Instances and maps share the masks of the queries that survive."""
    drawn = []
    compute = things.mask_head.logits

    class Recording:
        def logits(self, layer, features, image_index, query_index, counts=None):
            drawn.extend(query_index.tolist())
            return compute(layer, features, image_index, query_index, counts)

    run(replace(things, mask_head=Recording()), stuff)
    assert len(drawn) == len(set(drawn)) > 0


def test_scores_with_background_are_low_where_queries_have_no_class(
    things: ImageQueries, stuff: ImageQueries
) -> None:
    """The cat on the right becomes improbable: 0.02 for each of two classes."""
    logits = things.layer.logits.clone()
    logits[:, 2] = -4.0
    things = changed(things, logits=logits)
    settings = replace(SETTINGS, min_softmax_classes=133, semantic_labels_only=True)
    right = (slice(0, 30), slice(28, 48))
    without = run(things, stuff, settings)["sem_seg_labels"].scores
    scores = run(things, stuff, replace(settings, background=True))["sem_seg_labels"].scores
    assert without[right].min() > 0.3
    assert scores[right].max() < 0.05
    assert scores[:30, :20].min() > 0.9
