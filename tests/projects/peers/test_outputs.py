"""Outputs in Detectron2's form, independent of batches, sizes and the order of channels."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from hipie.vocabularies import Vocabulary
from hipie_peers.clipseg import class_map_segments
from hipie_peers.closed_vocabulary import LabelMatch, comparable_name
from hipie_peers.grounded_sam import phrase_captions
from hipie_peers.outputs import Detections, detection_outputs, suppress_duplicates

MODELS = {
    "clipseg": ("clipseg",),
    "sam3": ("sam3",),
    "grounded_sam": ("grounding-dino",),
    "mask2former": ("mask2former", "THRESHOLD", 0.05, "INSTANCE_THRESHOLD", 0.01),
    "oneformer": ("oneformer", "THRESHOLD", 0.05, "INSTANCE_THRESHOLD", 0.01),
}
VOCABULARY = Vocabulary.from_names(["dog", ("car", "automobile")], ["grass", "sky"])


def item(page, **request):
    return {"image": torch.from_numpy(page.transpose(2, 0, 1).copy()), **request}


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_equals_its_images_one_by_one(build, page, name):
    model = build(name, *MODELS[name]).model
    inputs = [
        item(page, vocabulary=VOCABULARY, height=90, width=123),
        item(page[:70, ::-1], vocabulary=VOCABULARY),
    ]
    together, alone = model(inputs), [model([one])[0] for one in inputs]
    for a, b, size in zip(together, alone, ((90, 123), (70, 200))):
        assert a.keys() == b.keys() >= {"sem_seg", "panoptic_seg"}
        assert torch.equal(a["sem_seg"], b["sem_seg"])
        assert tuple(a["sem_seg"].shape) == (len(VOCABULARY), *size)
        assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0])
        assert tuple(a["panoptic_seg"][0].shape) == size
        assert a["panoptic_seg"][1] == b["panoptic_seg"][1]
        if "instances" in a:
            assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)
            assert a["instances"].image_size == size
            assert set(a["instances"].pred_classes.tolist()) <= {0, 1}, "things only"


@pytest.mark.parametrize("name", ["clipseg", "sam3", "grounded_sam", "florence2"])
def test_expressions_have_at_most_one_mask_at_the_output_size(build, page, name):
    model = build(name, *MODELS.get(name, (name,))).model
    request = {"expressions": ["the red car", "a dog on the grass"], "height": 75, "width": 99}
    (output,) = model([item(page, **request)])
    assert len(output["referring"]) == 2
    for instances in output["referring"]:
        assert len(instances) <= 1 and instances.image_size == (75, 99)
        assert instances.pred_masks.dtype == torch.bool
        assert ((instances.scores >= 0) & (instances.scores <= 1)).all()


@pytest.mark.parametrize("name", MODELS)
def test_only_requested_outputs_are_computed(build, page, name):
    model = build(name, *MODELS[name]).model
    for requested, expected in (
        (("panoptic_seg",), {"panoptic_seg"}),
        (("sem_seg_labels",), {"sem_seg"}),
    ):
        (output,) = model([item(page, vocabulary=VOCABULARY, results=requested)])
        assert output.keys() == expected


def test_bgr_images_are_converted(build, page):
    rgb = build("clipseg", "clipseg").model
    expected = rgb([item(page, vocabulary=VOCABULARY)])[0]["sem_seg"]
    bgr = type(rgb)(
        network=rgb.network,
        processor=rgb.processor,
        config=type(rgb.config)(image_format="BGR"),
    )
    found = bgr.eval()([item(page[..., ::-1], vocabulary=VOCABULARY)])[0]["sem_seg"]
    assert torch.equal(found, expected)


def test_labels_match_by_name():
    labels = {0: "person", 1: "tree-merged", 2: "wall-other-merged", 3: "sofa, couch", 4: "door;x"}
    vocabulary = Vocabulary.from_names(
        [("human", "Person"), "couch", "dog"], ["tree", "wall", ("gate", "door")]
    )
    match = LabelMatch.by_name(labels, vocabulary)
    assert match.class_of == {0: 0, 1: 3, 2: 4, 3: 1, 4: 5}
    assert match.unmatched == ("dog",)
    assert comparable_name("Dining_Table-merged") == comparable_name("dining table")
    assert comparable_name("other") == "other"
    exact = LabelMatch.by_name(
        {0: "cup"}, Vocabulary.from_names([("mug", "cup"), "cup holder", ("cup",)])
    )
    assert exact.class_of == {0: 2}, "a name comes before a synonym"


def test_unmatched_names_get_no_segment_and_one_warning(build, page, caplog):
    model = build("mask2former", *MODELS["mask2former"], "OVERLAP", 0.0).model
    asked = item(page, vocabulary=Vocabulary.from_names(["unicorn", "dog"], ["sky", "lava"]))
    with caplog.at_level(logging.WARNING, "hipie"):
        outputs = [model([asked])[0] for _ in range(2)]
    warnings = [r.getMessage() for r in caplog.records if "no class" in r.getMessage()]
    assert len(warnings) == 1 and '"unicorn", "lava"' in warnings[0]
    for output in outputs:
        assert not output["sem_seg"][[0, 3]].any() and output["sem_seg"][[1, 2]].any()
        assert {s["category_id"] for s in output["panoptic_seg"][1]} <= {1, 2}
        assert set(output["instances"].pred_classes.tolist()) <= {1}


def test_segments_of_probability_maps():
    scores = torch.zeros(3, 2, 4)
    scores[0, :, :2], scores[1, :, 2:], scores[2, 0, 0] = 0.5, 0.3, 0.9
    panoptic, infos = class_map_segments(scores, [True, False, False], 0.4)
    assert panoptic.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0]]
    assert [(i["category_id"], i["isthing"]) for i in infos] == [(0, True), (2, False)]
    assert [i["score"] for i in infos] == pytest.approx([0.5, 0.9])
    assert class_map_segments(scores, [True] * 3, 0.0)[0].all()


def test_detections_become_outputs():
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, :, :3], masks[1, :, 2:5], masks[2, :2] = True, True, True
    found = Detections(
        masks, torch.zeros(3, 4), torch.tensor([0.6, 0.9, 0.2]), torch.tensor([0, 0, 1])
    )
    outputs = detection_outputs(
        found, [True, False], (4, 6), {"instances", "panoptic_seg", "sem_seg"}, overlap=0.1
    )
    assert outputs["instances"].scores.tolist() == pytest.approx([0.9, 0.6])
    panoptic, infos = outputs["panoptic_seg"]
    assert panoptic[0].tolist() == [1, 1, 2, 2, 2, 3] and panoptic[3].tolist() == [1, 1, 2, 2, 2, 0]
    assert [i["category_id"] for i in infos] == [0, 0, 1]
    assert outputs["sem_seg"][0, 0].tolist() == pytest.approx([0.6, 0.6, 0.9, 0.9, 0.9, 0])
    assert outputs["sem_seg"][1, 0].tolist() == pytest.approx([0.2] * 6)
    empty = Detections.concatenate([], (4, 6))
    outputs = detection_outputs(empty, [True], (4, 6), {"instances", "panoptic_seg", "sem_seg"})
    assert not len(outputs["instances"]) and not outputs["panoptic_seg"][1]
    assert not outputs["sem_seg"].any()


def test_duplicates_are_suppressed_within_a_class():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 5.0]])
    scores, classes = torch.tensor([0.5, 0.9, 0.7, 0.6]), torch.tensor([0, 0, 1, 0])
    assert suppress_duplicates(boxes, scores, classes, 0.8).tolist() == [1, 2, 3]
    assert suppress_duplicates(boxes, scores, classes, 1.0).tolist() == [1, 2, 3, 0]
    assert suppress_duplicates(boxes[:0], scores[:0], classes[:0], 0.8).tolist() == []


@pytest.mark.parametrize("limit", [8, 12, 64])
def test_captions_hold_every_phrase_at_its_tokens(limit):
    from hipie.modeling.text_encoder.tokenizer import load_tokenizer

    tokenizer = load_tokenizer("minilm")
    phrases = ["Dog", "street light", "T.V. set", "traffic-light", "sky"]
    captions = phrase_captions(tokenizer, phrases, limit)
    assert [index for caption in captions for index in caption.phrases] == [*range(5)]
    assert (len(captions) == 1) == (limit == 64)
    for caption in captions:
        ids = tokenizer(caption.text)["input_ids"]
        assert len(ids) <= limit
        for index, positions in zip(caption.phrases, caption.tokens):
            text = " ".join(phrases[index].lower().replace(".", " ").split())
            own = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert [ids[p] for p in positions] == own
            assert ids[positions[-1] + 1] == tokenizer.convert_tokens_to_ids(".")


def test_a_large_vocabulary_is_asked_in_several_captions(build, page):
    model = build("grounded_sam", "grounding-dino").model
    names = [f"object number {n}" for n in range(30)]
    boxes, scores, phrases = model.detect(page, names, page.shape[:2], 0.0)
    captions = phrase_captions(model.processor.tokenizer, names, 64)
    assert len(captions) > 1 and len(boxes) == len(captions) * 20
    for row, caption in enumerate(captions):
        part = phrases[20 * row : 20 * (row + 1)]
        assert set(part.tolist()) <= set(caption.phrases)
    assert np.isfinite(scores.numpy()).all()
