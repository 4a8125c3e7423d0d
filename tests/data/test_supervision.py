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
from hipie.errors import InputError
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


@pytest.mark.parametrize("kind", ["boxes"])
def test_a_step_of_every_kind_trains_all_modules(weak_cfg, kind):
    cfg = weak_cfg(kind)
    cfg.MODEL.HIPIE.LOSS.WEAK.WARMUP_ITERS = 0
    model = build_model(cfg).train()
    losses = model(first_batch(cfg))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    names = {name.split("_")[1] for name, loss in losses.items() if loss.item() > 0}
    assert names == {"ce", "bbox", "giou", "boxiou", "projection", "pairwise"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("masks", "has 'masks': it takes [data set, kind]"),
        ([PANOPTIC, "outlines"], 'the kind "outlines"'),
        (["elsewhere", "boxes"], "names elsewhere, which is not in DATASETS.TRAIN"),
        (["picturebook_train_refer", "boxes"], "only data sets of a vocabulary"),
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
