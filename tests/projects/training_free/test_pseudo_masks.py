"""Program that writes MaskCut's masks of a data set."""

from __future__ import annotations

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from hipie import model_zoo
from hipie.errors import InputError, UsageError
from hipie_training_free import pseudo_masks
from hipie_training_free.modeling.dino import Dino

SQUARES = {"two": ((4, 4), (9, 9)), "one": ((6, 2),)}


def encode_by_colour(image):
    """Features of patches of 8 pixels: their mean colours without the mean of all."""
    patches = torch.nn.functional.avg_pool2d(image[None], 8)[0]
    return (patches.flatten(1).t() - 0.5), tuple(patches.shape[1:])


@pytest.fixture
def cfg(configs):
    options = ("MODEL.TRAINING_FREE.MASKCUT.THRESHOLD", 0.5)
    return model_zoo.get_config(str(configs / "maskcut_random.yaml"), options)


@pytest.fixture
def records(tmp_path):
    """Two images of bright squares of 24 pixels on dark ground."""
    from PIL import Image

    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    found = []
    for number, (name, corners) in enumerate(SQUARES.items()):
        pixels = np.full((112, 128, 3), 20, np.uint8)
        for row, column in corners:
            pixels[8 * row : 8 * row + 24, 8 * column : 8 * column + 24] = 230
        path = folder / ("sub" if number else "") / f"{name}.png"
        Image.fromarray(pixels).save(path)
        found.append({"file_name": str(path), "height": 112, "width": 128})
    return found


def test_masks_are_coco_annotations_of_one_class(cfg, records):
    content = pseudo_masks.pseudo_annotations(cfg, encode_by_colour, records)
    assert [image["file_name"] for image in content["images"]] == ["two.png", "sub/one.png"]
    assert content["categories"] == [{"id": 1, "name": "object"}]
    entry = next(a for a in content["annotations"] if a["image_id"] == 2)
    assert entry["bbox"] == [16, 48, 24, 24] and entry["area"] == 576
    expected = np.zeros((112, 128), bool)
    expected[48:72, 16:40] = True
    np.testing.assert_array_equal(mask_util.decode(entry["segmentation"]) > 0, expected)


def test_masks_are_refined(cfg, records):
    """The settings of MASKCUT.REFINEMENT and PAMR reach the refinement."""
    from hipie.data.image_io import read_image

    image = torch.from_numpy(read_image(records[1]["file_name"])).permute(2, 0, 1) / 255
    image[:, 44:48, 16:40] = image[:, 50:51, 20:21]  # the square begins within a patch
    settings = cfg.MODEL.TRAINING_FREE
    areas = []
    for refinement, steps in (("", 10), ("pamr", 10), ("pamr", 0)):
        settings.MASKCUT.REFINEMENT, settings.PAMR.STEPS = refinement, steps
        settings.PAMR.DILATIONS = (1, 2)
        areas.append(int(pseudo_masks.object_masks(cfg, encode_by_colour, image)[0].sum()))
    assert areas[0] == areas[2] != areas[1]


def test_the_file_is_a_training_set(cfg, records, tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_masks, "patch_encoder", lambda _: encode_by_colour)
    monkeypatch.setattr("hipie.data.record_list.read_records", lambda _: records)
    monkeypatch.setattr(pseudo_masks, "_progress", lambda items: items)
    monkeypatch.setattr("hipie.model_zoo.get_config", lambda *_, **__: cfg)
    output = tmp_path / "made" / "masks.json"
    arguments = ["--config-file", "x", "--dataset", "y", "--output", str(output)]
    assert pseudo_masks.main(arguments) == 0
    from hipie.data.datasets.coco_instances import load_coco_instances

    loaded = load_coco_instances(str(output), str(tmp_path / "images"), {1: 0})
    count = len(json.loads(output.read_text())["annotations"])
    assert sum(len(record["annotations"]) for record in loaded) == count >= 2
    with pytest.raises(UsageError, match="masks.json exists already; name another file"):
        pseudo_masks._run(pseudo_masks._parser().parse_args(arguments))


def test_features_are_those_of_an_output_of_the_backbone(cfg):
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_timm_backbone", 0
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS = "test_efficientnet", ""
    image = torch.rand(3, 60, 90)
    grids = {}
    for name in ("res3", "res4", ""):
        cfg.MODEL.TRAINING_FREE.MASKCUT.FEATURES = name
        features, grids[name] = pseudo_masks.patch_encoder(cfg)(image)
        assert len(features) == grids[name][0] * grids[name][1]
    assert grids == {"res3": (8, 12), "res4": (4, 6), "": (8, 12)}
    expected = Dino.from_source("random:tiny").extract_features(image)
    torch.testing.assert_close(features, expected.keys)
    cfg.MODEL.TRAINING_FREE.MASKCUT.FEATURES = "res9"
    with pytest.raises(InputError, match=r"FEATURES is res9, and build_timm_backbone has res2"):
        pseudo_masks.patch_encoder(cfg)
