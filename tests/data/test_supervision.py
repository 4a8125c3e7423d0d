"""Training sets whose objects have no masks: items, losses, and settings that cannot be used."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from hipie.data.build import build_train_loader
from hipie.data.datasets import register_all
from hipie.data.supervision import BOXES, MASKS, require_annotations
from hipie.errors import HipieError, InputError
from hipie.structures import BOX

PANOPTIC = "picturebook_train_panoptic"


def first_batch(cfg) -> list:
    return next(iter(build_train_loader(cfg)))


@pytest.fixture
def weak_cfg(tiny_cfg):
    tiny_cfg.DATASETS.TRAIN = (PANOPTIC,)
    tiny_cfg.DATALOADER.DATASET_BATCH_SIZE = (2,)

    def make(kind: str):
        tiny_cfg.DATASETS.SUPERVISION = [[PANOPTIC, kind]]
        return tiny_cfg

    return make


def test_boxes_are_those_of_the_masks(weak_cfg):
    cfg = weak_cfg("masks")
    masks = first_batch(cfg)
    boxes = first_batch(weak_cfg("boxes"))
    for with_masks, with_boxes in zip(masks, boxes, strict=True):
        assert with_boxes["image"].equal(with_masks["image"])
        expected, found = with_masks["instances"], with_boxes["instances"]
        assert not expected.has("gt_supervision")
        assert found.gt_supervision.tolist() == [BOX] * len(found)
        assert found.gt_classes.equal(expected.gt_classes)
        # Masks are scaled to the nearest pixel, boxes are scaled before they are rounded.
        assert (found.gt_boxes.tensor - expected.gt_boxes.tensor).abs().max() <= 2
        filled = found.gt_masks.tensor.flatten(1).sum(1)
        assert filled.equal(found.gt_boxes.area().long())


@pytest.mark.parametrize("kind", ["boxes", "points", "scribbles", "tags"])
def test_a_step_of_every_kind_trains_all_modules(weak_cfg, kind):
    cfg = weak_cfg(kind)
    cfg.MODEL.HIPIE.LOSS.WEAK.WARMUP_ITERS = 0
    cfg.MODEL.HIPIE.PIXEL_HEAD.ENABLED = True
    model = build_model(cfg).train()
    losses = model(first_batch(cfg))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    names = {name.split("_")[1] for name, loss in losses.items() if loss.item() > 0}
    with_box = {"ce", "bbox", "giou", "boxiou"}
    assert (
        names
        == {
            "boxes": with_box | {"projection", "pairwise"},
            "points": with_box | {"point", "pixel"},
            "scribbles": {"ce", "point", "pixel"},
            "tags": {"tag"},
        }[kind]
    )


@pytest.mark.parametrize("kind", ["points", "scribbles"])
def test_labels_of_points_are_those_of_the_masks(weak_cfg, kind):
    """Of all objects, at every scale; and they are the same in every item of the image."""
    cfg = weak_cfg("masks")
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (0,), "none"
    masks = first_batch(cfg)
    weak = first_batch(weak_cfg(kind))
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    flipped = first_batch(cfg)
    for with_masks, item, other in zip(masks, weak, flipped, strict=True):
        instances = item["instances"]
        points = instances.gt_points
        assert (points[..., 2] == 1).any(dim=1).float().mean() > (0.9 if kind == "points" else 0.99)
        for mask, of_object in zip(with_masks["instances"].gt_masks, points, strict=True):
            x, y, label = of_object[of_object[:, 2] >= 0].unbind(1)
            assert mask[y.long(), x.long()].equal(label == 1)
        width = item["image"].shape[2]
        again = other["instances"].gt_points
        mirrored = not item["image"].equal(other["image"])
        x = width - again[..., 0] if mirrored else again[..., 0]
        assert torch.where(again[..., 2] >= 0, x, 0).equal(
            torch.where(points[..., 2] >= 0, points[..., 0], 0)
        )


def test_tags_are_the_classes_of_the_objects(weak_cfg):
    masks = first_batch(weak_cfg("masks"))
    tags = first_batch(weak_cfg("tags"))
    for with_masks, item in zip(masks, tags, strict=True):
        assert len(item["instances"]) == 0
        expected = with_masks["vocabulary"].names
        names = item["vocabulary"].names
        present = {expected[i] for i in with_masks["instances"].gt_classes.tolist()}
        assert {names[i] for i in item["tags"].tolist()} == present


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("masks", "has 'masks': it takes [data set, kind]"),
        ([PANOPTIC, "outlines"], 'the kind "outlines"'),
        (["elsewhere", "boxes"], "names elsewhere, which is not in DATASETS.TRAIN"),
        (["picturebook_train_refer", "boxes"], "only data sets of a vocabulary"),
        ([PANOPTIC, "none"], "from which nothing is learned without SEMI_SUPERVISED.ENABLED"),
    ],
)
def test_entries_that_cannot_be_used(tiny_cfg, entry, message):
    tiny_cfg.DATASETS.SUPERVISION = [entry]
    with pytest.raises(InputError) as error:
        build_train_loader(tiny_cfg)
    assert message in str(error.value)


def test_only_hipie_is_trained_without_masks(weak_cfg):
    cfg = weak_cfg("boxes")
    cfg.MODEL.META_ARCHITECTURE = "ReferSAM"
    with pytest.raises(InputError, match="ReferSAM is trained on masks only"):
        build_train_loader(cfg)


def coco(tmp_path, annotations: list, **image) -> list:
    """An entry of DATASETS.COCO_FORMAT with one image of 80 x 60 pixels."""
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 80, **image}],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "jar"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, **entry}
            for i, entry in enumerate(annotations, 1)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return ["cups", str(tmp_path / "a.json"), str(tmp_path)]


@pytest.fixture
def file_cfg(tiny_cfg, tmp_path):
    """Configuration with one set in COCO's format."""

    def make(kind: str, annotations: list, **image):
        tiny_cfg.DATASETS.COCO_FORMAT = [coco(tmp_path, annotations, **image)]
        tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATALOADER.DATASET_BATCH_SIZE = ("cups",), (1,)
        tiny_cfg.DATASETS.SUPERVISION = [["cups", kind]]
        register_all(tiny_cfg)
        return tiny_cfg

    return make


def test_masks_that_a_file_does_not_have(file_cfg):
    with pytest.raises(
        InputError, match='cups has masks, but none of its 1 annotations has a "seg'
    ):
        build_train_loader(file_cfg("masks", [{"bbox": [10, 10, 30, 20]}]))


def test_boxes_of_a_file(file_cfg):
    (item,) = first_batch(file_cfg("boxes", [{"bbox": [8, 12, 40, 24]}]))
    height, width = item["image"].shape[1:]
    scale = torch.tensor([width / 80, height / 60] * 2)
    box = item["instances"].gt_boxes.tensor[0] / scale
    assert box.tolist()[1::2] == pytest.approx([12, 36], abs=1)
    assert (box[2] - box[0]).item() == pytest.approx(40, abs=1)


def test_points_and_scribbles_of_a_file(file_cfg):
    points = {"point_coords": [[8, 12], [40, 30]], "point_labels": [1, 0]}
    line = [10.5, 14.5, 30.5, 14.5]
    annotations = [{"bbox": [8, 12, 40, 24], **points}, {"bbox": [5, 5, 9, 9], **points}]
    (item,) = first_batch(file_cfg("points", annotations))
    found = item["instances"].gt_points[0]
    height, width = item["image"].shape[1:]
    x = found[:, 0] * 80 / width
    assert {8.5, 40.5} == {round(v, 2) for v in x.tolist()} or {71.5, 39.5} == {
        round(v, 2) for v in x.tolist()
    }
    assert (found[:, 1] * 60 / height).tolist() == pytest.approx([12.5, 30.5])
    assert found[:, 2].tolist() == [1, 0]
    scribbles = [{"scribbles": [line]}, {"scribbles": [[50.5, 40.5, 50.5, 50.5]]}]
    (item,) = first_batch(file_cfg("scribbles", scribbles))
    found = item["instances"].gt_points
    on = found[0][found[0][:, 2] == 1]
    assert len(on) == 21 and (on[:, 1] * 60 / height).tolist() == pytest.approx([14.5] * 21)
    beside = found[0][found[0][:, 2] == 0]
    assert len(beside) == 11 and (beside[:, 1] * 60 / height).min() > 40


def test_scores_of_a_file_are_weights(file_cfg):
    box = {"bbox": [8, 12, 40, 24], "segmentation": [[8, 12, 48, 12, 48, 36, 8, 36]]}
    (item,) = first_batch(file_cfg("masks", [{**box, "score": 0.25}, box]))
    assert item["instances"].gt_scores.tolist() == [0.25, 1.0]


@pytest.mark.parametrize(
    ("kind", "annotation", "image", "message"),
    [
        (
            "scribbles",
            {"scribbles": [[10, 10, 90, 10]]},
            {},
            r'"scribbles" has \(90, 10\), which is',
        ),
        ("scribbles", {"scribbles": [[10, 10, 20]]}, {}, '"scribbles" must have finite'),
        ("scribbles", {"bbox": [1, 1, 9, 9]}, {}, 'have neither "scribbles" nor a "segmentation"'),
        ("points", {"bbox": [1, 1, 9, 9]}, {}, 'have neither "point_coords" nor'),
        (
            "points",
            {"bbox": [1, 1, 9, 9], "point_coords": [[1, 1]], "point_labels": [2]},
            {},
            '"point_labels" must have a 0 or 1 for each of the 1',
        ),
        ("boxes", {"bbox": [1, 1, 9, 9], "score": 87}, {}, '"score" must be a number in 0 to 1'),
        ("tags", {"bbox": [1, 1, 9, 9]}, {"tags": ["cap"]}, 'the tag "cap", which is the name of'),
    ],
)
def test_annotations_that_cannot_be_used(file_cfg, kind, annotation, image, message):
    with pytest.raises(HipieError, match=message):
        build_train_loader(file_cfg(kind, [annotation], **image))


def test_tags_of_a_file(file_cfg):
    (item,) = first_batch(file_cfg("tags", [], tags=["jar"]))
    assert [item["vocabulary"].names[i] for i in item["tags"].tolist()] == ["jar"]


def test_keys_of_what_is_derived_and_left_out(weak_cfg):
    """WEAK_LABELS.POINTS, SCRIBBLE_PIXELS and SEED; LABELED_FRACTION and LABELED_FRACTION_SEED."""
    cfg = weak_cfg("points")
    cfg.DATASETS.WEAK_LABELS.POINTS = 3
    first = first_batch(cfg)[0]["instances"].gt_points
    assert first.shape[1] == 3
    cfg.DATASETS.WEAK_LABELS.SEED = 1
    assert not first_batch(cfg)[0]["instances"].gt_points.equal(first)
    cfg = weak_cfg("scribbles")
    cfg.DATASETS.WEAK_LABELS.SCRIBBLE_PIXELS = 5
    labels = first_batch(cfg)[0]["instances"].gt_points[..., 2]
    assert (labels == 1).sum(1).max() == 5
    cfg = weak_cfg("masks")
    cfg.DATASETS.LABELED_FRACTION = 0.5
    halves = [files(cfg, 12)]
    for cfg.DATASETS.LABELED_FRACTION_SEED in range(1, 4):
        halves.append(files(cfg, 12))
    assert all(len(half) == 4 for half in halves) and any(half != halves[0] for half in halves)


def files(cfg, batches: int) -> set:
    loader = iter(build_train_loader(cfg))
    return {item["file_name"] for _ in range(batches) for item in next(loader)}


@pytest.mark.parametrize(
    ("fraction", "message"),
    [(0.01, "leaves none of the 8 images of"), (0.0, "above 0 and"), (1.5, "at most 1")],
)
def test_fractions_that_cannot_be_used(weak_cfg, fraction, message):
    cfg = weak_cfg("masks")
    cfg.DATASETS.LABELED_FRACTION = fraction
    with pytest.raises(InputError, match=message):
        build_train_loader(cfg)


def test_a_set_of_boxes_without_a_kind_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    box = {"bbox": [0, 0, 4, 4], "category_id": 0}
    mask = {**box, "segmentation": [[0, 0, 4, 0, 4, 4]]}
    require_annotations("crops", "", [{"annotations": [box, mask]}])
    require_annotations("crops", BOXES, [{"annotations": [box]}])
    assert not caplog.records
    require_annotations("crops", "", [{"annotations": [box, box]}])
    assert "crops: none of its 2 annotations has a" in caplog.text
    assert '["crops", "boxes"] in DATASETS.SUPERVISION' in caplog.text
    with pytest.raises(InputError, match=r"crops has masks, but none of its 1 annotations"):
        require_annotations("crops", MASKS, [{"annotations": [box]}])
