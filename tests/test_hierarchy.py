"""Wholes, parts and parts of parts through `Segmenter`; refinement by SAM; labelling of masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

from hipie import Segmenter
from hipie.modeling.sam.predictor import Sam
from hipie.segmentation import Segment, Segmentation
from hipie.task_predictors import PreparedImage
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyError, root_wholes

TINY = str(Path(__file__).parent / "tiny.yaml")
PARTS = {"dog": {"head": ["eye"], "tail": []}, "car": ["wheel"]}


@pytest.fixture(scope="module")
def segmenter(tiny_weights: Path, tiny_text: Path) -> Segmenter:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.OBJECT_MASK_THRESHOLD", 0.0]
    opts += ["MODEL.HIPIE.HIDDEN_DIM", 64, "MODEL.HIPIE.OVERLAP_THRESHOLD", 0.0]
    return Segmenter.from_config(TINY, tiny_weights, "cpu", opts)


@pytest.fixture(scope="module")
def sam() -> Sam:
    return Sam.from_source("random:tiny")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)


@pytest.fixture
def requested_names(monkeypatch) -> list[tuple[str, ...]]:
    """Class names of every run of the model, whose outputs are fixed.

    The panoptic map has a dog; the semantic map has a head with an eye and a tail, which extend
    beyond the dog.
    """
    panoptic = torch.zeros(70, 90, dtype=torch.int32)
    panoptic[10:50, 10:60] = 1
    labels = torch.zeros(70, 90, dtype=torch.long)
    labels[5:30, 10:30], labels[12:20, 15:23], labels[30:45, 50:70] = 1, 3, 2
    requested = []

    def run(prepared, vocabulary, results):
        names = vocabulary.names
        requested.append(names)
        if "dog head" not in names:
            info = [{"id": 1, "isthing": True, "category_id": names.index("dog"), "score": 0.9}]
            return {"panoptic_seg": (panoptic, info)}
        order = ["grass", "dog head", "dog tail", "dog eye"]
        rows = torch.tensor([names.index(name) for name in order])
        scores = torch.full((len(names), 70, 90), 0.1)
        return {"sem_seg": scores.scatter_(0, rows[labels][None], 0.7)}

    monkeypatch.setattr(PreparedImage, "run", run)
    return requested


def test_names_of_parts_of_parts() -> None:
    flat = {"dog": ["head", "tail"], "car": ["wheel"], "dog head": [("eye", "pupil")]}
    for parts in (PARTS, flat):
        vocabulary = Vocabulary.from_names(parts=parts)
        assert vocabulary.names == ("dog head", "dog tail", "car wheel", "dog eye")
        assert [entry.whole for entry in vocabulary.classes] == ["dog", "dog", "car", "dog head"]
        assert root_wholes(parts) == ("dog", "car")
        assert vocabulary.wholes == ("dog", "car", "dog head")
    assert vocabulary.classes[3].synonyms == ("dog eye", "dog pupil")
    for wrong in ({"dog": b"head"}, {"dog": {"head": 3}}):
        with pytest.raises(VocabularyError, match=r'the parts of ".*" must be a list'):
            Vocabulary.from_names(parts=wrong)
    with pytest.raises(VocabularyError, match="twice"):
        Vocabulary.from_names(parts={"dog": {"head": ["eye"], "eye": []}})


def test_parts_form_a_tree(segmenter, requested_names, image) -> None:
    result = segmenter.segment(image, ["car"], ["grass"], PARTS)
    assert requested_names == [
        ("car", "dog", "grass"),
        ("grass", "dog head", "dog tail", "car wheel", "dog eye"),
    ]
    assert [(d, s.label) for d, s in result.walk()] == [
        (0, "dog"),
        (1, "dog head"),
        (2, "dog eye"),
        (1, "dog tail"),
    ]
    dog = result.segments[0]
    head, tail = dog.parts
    assert (head.box, head.parts[0].box) == ((10, 10, 30, 30), (15, 12, 23, 20))
    assert tail.box == (50, 30, 60, 45)
    assert set(result.parts) == {"dog", "dog head"}
    assert result.consistency == 1
    (converted,) = result.to_coco()
    assert converted["parts"][0]["parts"][0]["label"] == "dog eye"
    assert result.tree.splitlines()[2].startswith("    dog eye 0.")
    assert result.draw().size[0] > 90


def test_inconsistent_parts_extend_beyond_their_whole(segmenter, requested_names, image) -> None:
    result = segmenter.segment(image, ["car"], ["grass"], PARTS, consistent=False)
    head, tail = result.segments[0].parts
    assert head.box == (10, 5, 30, 30) and tail.box == (50, 30, 70, 45)
    inside = 20 * 20 + 10 * 15 + 64
    assert result.consistency == pytest.approx(inside / (20 * 25 + 20 * 15 + 64))


def test_consistency_is_the_fraction_of_part_pixels_inside_the_whole() -> None:
    whole, part = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    whole[:2], part[1:, 0] = True, True
    image = np.zeros((4, 4, 3), np.uint8)
    inner = Segment("dog head", "part", part, 0.5)
    assert Segmentation(image, [Segment("dog", "thing", whole, 0.5, [inner])]).consistency == 1 / 3
    assert Segmentation(image, [Segment("dog", "thing", whole, 0.5)]).consistency == 1


def test_sam_refines_things_and_parts_inside_them(segmenter, requested_names, image, sam) -> None:
    expected = sam.encode(image).predict(boxes=[[10, 10, 60, 50]]).masks[0, 0].numpy()
    result = segmenter.segment(image, ["car"], ["grass"], PARTS, sam=sam)
    dog = result.segments[0]
    assert expected.any() and np.array_equal(dog.mask, expected)
    for _, whole in result.walk():
        for part in whole.parts:
            assert part.mask.any() and not (part.mask & ~whole.mask).any()


def test_refined_panoptic_segments_do_not_overlap(segmenter, image, sam) -> None:
    result = segmenter.segment(image, ["dog", "car"], ["grass", "sky"], sam=sam)
    assert len(result) and result.masks.sum(0).max() == 1
    assert all(segment.mask.any() for segment in result)


def test_refined_instances_may_overlap(segmenter, image, sam, monkeypatch) -> None:
    instances = Instances((70, 90))
    instances.pred_masks = torch.zeros(2, 70, 90, dtype=torch.bool)
    instances.pred_masks[:, 10:40, 10:50] = True
    instances.pred_classes, instances.scores = torch.tensor([0, 1]), torch.tensor([0.9, 0.8])
    monkeypatch.setattr(PreparedImage, "run", lambda *_, **__: {"instances": instances})
    result = segmenter.segment(image, ["dog", "car"], output="instances", sam=sam)
    assert result.labels == ["dog", "car"]
    assert np.array_equal(result.masks[0], result.masks[1]) and result.masks[0].any()
    with pytest.raises(ValueError, match="sam refines masks of objects"):
        segmenter.segment(image, ["dog"], output="semantic", sam=sam)


def test_given_masks_are_labelled(segmenter, image, monkeypatch) -> None:
    scores = torch.full((3, 70, 90), 0.1)
    scores[0, :, :45], scores[2, :, 45:] = 0.8, 0.6
    monkeypatch.setattr(PreparedImage, "run", lambda *_, **__: {"sem_seg": scores})
    masks = np.zeros((3, 70, 90), bool)
    masks[0, :, 40:], masks[1, 5:20, 5:20], masks[2, 30:50, 10:30] = True, True, True
    result = segmenter.label(image, masks, ["dog", "car"], ["sky"])
    assert sorted(result.labels) == ["dog", "dog", "sky"]
    assert result.masks.sum() == masks.sum()
    assert result.scores[result.labels.index("dog")] == pytest.approx(0.8)
    assert result.class_names == ("dog", "car", "sky")


def test_parts_of_given_masks_are_labelled(segmenter, image, monkeypatch) -> None:
    requested = []

    def run(prepared, vocabulary, results):
        names = vocabulary.names
        requested.append(names)
        scores = torch.full((len(names), 70, 90), 0.1)
        if "dog head" not in names:
            scores[names.index("dog"), 10:60, 10:80] = 0.8
            scores[names.index("grass"), 60:] = 9.0
            return {"sem_seg": scores}
        scores[names.index("dog head"), 10:30, 10:30] = 0.7
        scores[names.index("dog eye"), 15:20, 15:20] = 0.9
        scores[names.index("dog tail"), 40:60, 60:80] = 0.7
        return {"sem_seg": scores}

    monkeypatch.setattr(PreparedImage, "run", run)
    masks = np.zeros((5, 70, 90), bool)
    for mask, (top, left, bottom, right) in zip(
        masks,
        ((0, 0, 70, 90), (10, 10, 60, 80), (10, 10, 30, 30), (15, 15, 20, 20), (40, 60, 60, 80)),
    ):
        mask[top:bottom, left:right] = True
    result = segmenter.label(image, masks, ["car"], ["grass"], PARTS)
    assert [(d, s.label) for d, s in result.walk()] == [
        (0, "grass"),
        (0, "dog"),
        (1, "dog head"),
        (2, "dog eye"),
        (1, "dog tail"),
    ]
    dog = result.segments[1]
    assert np.array_equal(dog.mask, masks[1]) and np.array_equal(dog.parts[1].mask, masks[4])
    assert result.consistency == 1 and result.class_names[-4:] == (
        "dog head", "dog tail", "car wheel", "dog eye",
    )  # fmt: skip
    without = segmenter.label(image, masks, ["car", "dog"], ["grass"])
    assert without.labels == ["grass", "dog", "dog", "dog", "dog"]
    assert len(requested) == 3


def test_automatic_masks_of_sam_are_labelled(segmenter, image, sam) -> None:
    options = {"points_per_side": 4, "pred_iou_thresh": -10.0, "stability_score_thresh": 0.0}
    result = segmenter.segment_everything(image, sam, ["dog", "car"], ["sky"], **options)
    assert len(result) and set(result.labels) <= {"dog", "car", "sky"}
    assert result.masks.sum(0).max() == 1
    empty = segmenter.segment_everything(image, sam, ["dog"], pred_iou_thresh=99.0)
    assert len(empty) == 0


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((0, 70, 90), bool), "no mask to be labelled"),
        (np.zeros((1, 70, 90), bool), "mask 0 is empty"),
        (None, r"label needs masks \[N, H, W\]"),
        (np.ones((1, 90, 70), bool), r"\[1, 90, 70\].* needs \[N, 70, 90\]"),
    ],
)
def test_masks_that_cannot_be_labelled_are_refused(segmenter, image, masks, message) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter.label(image, masks, ["dog"])


def test_semantic_map_keeps_parts_consistent(tiny_cfg) -> None:
    vocabulary = Vocabulary.from_names(
        stuff=["sky"], parts={"dog": ["head", "tail"], "cat": ["head"]}
    )
    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    assert model.settings.consistent_parts is False
    image = 255 * torch.rand(3, 64, 96)
    unconstrained = model([{"image": image, "vocabulary": vocabulary}])[0]["sem_seg"]
    model.settings = replace(model.settings, consistent_parts=True)
    consistent = model([{"image": image, "vocabulary": vocabulary}])[0]["sem_seg"]
    groups = torch.stack([unconstrained[0], unconstrained[1] + unconstrained[2], unconstrained[3]])
    whole = torch.tensor([0, 1, 1, 2])[consistent.argmax(0)]
    assert torch.equal(whole, groups.argmax(0))
    positive = consistent > 0
    assert torch.allclose(consistent[positive], unconstrained[positive])
    assert (positive.sum(0) <= 2).all()


def test_only_requested_outputs_are_computed(tiny_cfg) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    vocabulary = Vocabulary.from_names(["dog", "car"], ["sky"])
    inputs = {"image": 255 * torch.rand(3, 64, 96), "vocabulary": vocabulary}
    outputs = model([inputs])[0]
    for name in ("instances", "sem_seg", "panoptic_seg"):
        (requested,) = model([{**inputs, "results": (name,)}])
        assert set(requested) == {name}
        if name == "sem_seg":
            torch.testing.assert_close(requested[name], outputs[name])
        if name == "panoptic_seg":
            assert torch.equal(requested[name][0], outputs[name][0])
