"""Wholes, parts and parts of parts through the Segmenter; SAM and foreign masks beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from hipie import Segmenter
from hipie.modeling.sam.predictor import Sam
from hipie.segmentation import Segment, Segmentation
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
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)


@pytest.fixture
def planted(segmenter, monkeypatch):
    """The model's answers: a dog on grass; then a head with an eye in it, which reach out of it."""
    panoptic = torch.zeros(70, 90, dtype=torch.int32)
    panoptic[10:50, 10:60] = 1
    labels = torch.zeros(70, 90, dtype=torch.long)
    labels[5:30, 10:30], labels[12:20, 15:23], labels[30:45, 50:70] = 1, 3, 2
    asked = []

    def run(pixels, item):
        names = item["vocabulary"].names
        asked.append(names)
        if "dog head" not in names:
            info = [{"id": 1, "isthing": True, "category_id": names.index("dog"), "score": 0.9}]
            return {"panoptic_seg": (panoptic, info)}
        order = ["grass", "dog head", "dog tail", "dog eye"]
        rows = torch.tensor([names.index(name) for name in order])
        scores = torch.full((len(names), 70, 90), 0.1)
        return {"sem_seg": scores.scatter_(0, rows[labels][None], 0.7)}

    monkeypatch.setattr(segmenter, "_run", run)
    return asked


def test_names_of_parts_of_parts() -> None:
    flat = {"dog": ["head", "tail"], "car": ["wheel"], "dog head": [("eye", "pupil")]}
    for parts in (PARTS, flat):
        words = Vocabulary.from_names(parts=parts)
        assert words.names == ("dog head", "dog tail", "car wheel", "dog eye")
        assert [one.whole for one in words.classes] == ["dog", "dog", "car", "dog head"]
        assert root_wholes(parts) == ("dog", "car")
        assert words.wholes == ("dog", "car", "dog head")
    assert words.classes[3].synonyms == ("dog eye", "dog pupil")
    for wrong in ({"dog": "head"}, {"dog": {"head": "eye"}}):
        with pytest.raises(VocabularyError, match="must be a list"):
            Vocabulary.from_names(parts=wrong)
    with pytest.raises(VocabularyError, match="twice"):
        Vocabulary.from_names(parts={"dog": {"head": ["eye"], "eye": []}})


def test_the_tree_of_an_image(segmenter, planted, picture) -> None:
    found = segmenter.segment(picture, ["car"], ["grass"], PARTS)
    assert planted == [
        ("car", "dog", "grass"),
        ("grass", "dog head", "dog tail", "car wheel", "dog eye"),
    ]
    assert [(d, s.label) for d, s in found.walk()] == [
        (0, "dog"),
        (1, "dog head"),
        (2, "dog eye"),
        (1, "dog tail"),
    ]
    dog = found.segments[0]
    head, tail = dog.parts
    assert (head.box, head.parts[0].box) == ((10, 10, 30, 30), (15, 12, 23, 20))
    assert tail.box == (50, 30, 60, 45)
    assert set(found.parts) == {"dog", "dog head"}
    assert found.consistency == 1
    (written,) = found.to_coco()
    assert written["parts"][0]["parts"][0]["label"] == "dog eye"
    assert found.tree.splitlines()[2].startswith("    dog eye 0.")
    assert found.draw().size[0] > 90


def test_without_consistency_parts_stay_entire_and_it_is_counted(
    segmenter, planted, picture
) -> None:
    found = segmenter.segment(picture, ["car"], ["grass"], PARTS, consistent=False)
    head, tail = found.segments[0].parts
    assert head.box == (10, 5, 30, 30) and tail.box == (50, 30, 70, 45)
    inside = 20 * 20 + 10 * 15 + 64
    assert found.consistency == pytest.approx(inside / (20 * 25 + 20 * 15 + 64))


def test_consistency_of_a_result() -> None:
    whole, part = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    whole[:2], part[1:, 0] = True, True
    page = np.zeros((4, 4, 3), np.uint8)
    inner = Segment("dog head", "part", part, 0.5)
    assert Segmentation(page, [Segment("dog", "thing", whole, 0.5, [inner])]).consistency == 1 / 3
    assert Segmentation(page, [Segment("dog", "thing", whole, 0.5)]).consistency == 1


def test_sam_refines_things_and_parts_inside_them(segmenter, planted, picture, sam) -> None:
    seen = sam.encode(picture)
    box = seen.predict(boxes=[[10, 10, 60, 50]]).masks[0, 0].numpy()
    found = segmenter.segment(picture, ["car"], ["grass"], PARTS, sam=sam)
    dog = found.segments[0]
    assert box.any() and np.array_equal(dog.mask, box)
    for _, whole in found.walk():
        for part in whole.parts:
            assert part.mask.any() and not (part.mask & ~whole.mask).any()


def test_things_of_sam_do_not_overlap(segmenter, picture, sam) -> None:
    found = segmenter.segment(picture, ["dog", "car"], ["grass", "sky"], sam=sam)
    assert len(found) and found.masks.sum(0).max() == 1
    assert all(one.mask.any() for one in found)


def test_foreign_masks_get_names(segmenter, picture, monkeypatch) -> None:
    scores = torch.full((3, 70, 90), 0.1)
    scores[0, :, :45], scores[2, :, 45:] = 0.8, 0.6
    monkeypatch.setattr(segmenter, "_run", lambda *_: {"sem_seg": scores})
    masks = np.zeros((3, 70, 90), bool)
    masks[0, :, 40:], masks[1, 5:20, 5:20], masks[2, 30:50, 10:30] = True, True, True
    found = segmenter.label(picture, masks, ["dog", "car"], ["sky"])
    assert sorted(found.labels) == ["dog", "dog", "sky"]
    assert found.masks.sum() == masks.sum()
    assert found.scores[found.labels.index("dog")] == pytest.approx(0.8)


def test_everything_that_sam_finds_gets_a_name(segmenter, picture, sam) -> None:
    options = {"points_per_side": 4, "pred_iou_thresh": -10.0, "stability_score_thresh": 0.0}
    found = segmenter.segment_everything(picture, sam, ["dog", "car"], ["sky"], **options)
    assert len(found) and set(found.labels) <= {"dog", "car", "sky"}
    assert found.masks.sum(0).max() == 1
    none = segmenter.segment_everything(picture, sam, ["dog"], pred_iou_thresh=99.0)
    assert len(none) == 0


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        (np.zeros((0, 70, 90), bool), "no mask that could be given a name"),
        (np.zeros((1, 70, 90), bool), "mask 0 is empty"),
        (np.ones((1, 90, 70), bool), r"\[1, 90, 70\].* needs \[N, 70, 90\]"),
    ],
)
def test_masks_that_cannot_be_named(segmenter, picture, masks, said) -> None:
    with pytest.raises(ValueError, match=said):
        segmenter.label(picture, masks, ["dog"])


def test_consistent_parts_in_the_semantic_map(tiny_cfg) -> None:
    words = Vocabulary.from_names(stuff=["sky"], parts={"dog": ["head", "tail"], "cat": ["head"]})
    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    assert model.settings.consistent_parts is False
    image = 255 * torch.rand(3, 64, 96)
    free = model([{"image": image, "vocabulary": words}])[0]["sem_seg"]
    model.settings = replace(model.settings, consistent_parts=True)
    kept = model([{"image": image, "vocabulary": words}])[0]["sem_seg"]
    groups = torch.stack([free[0], free[1] + free[2], free[3]])
    whole = torch.tensor([0, 1, 1, 2])[kept.argmax(0)]
    assert torch.equal(whole, groups.argmax(0))
    shown = kept > 0
    assert torch.allclose(kept[shown], free[shown]) and (shown.sum(0) <= 2).all()


def test_only_the_results_that_are_named_are_made(tiny_cfg) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    words = Vocabulary.from_names(["dog", "car"], ["sky"])
    item = {"image": 255 * torch.rand(3, 64, 96), "vocabulary": words}
    every = model([item])[0]
    for name in ("instances", "sem_seg", "panoptic_seg"):
        (only,) = model([{**item, "results": (name,)}])
        assert set(only) == {name}
        if name == "sem_seg":
            torch.testing.assert_close(only[name], every[name])
        if name == "panoptic_seg":
            assert torch.equal(only[name][0], every[name][0])
