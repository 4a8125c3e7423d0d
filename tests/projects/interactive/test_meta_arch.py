"""`InteractiveSAM` in Detectron2's registry, loaders and evaluators, and `Segmenter`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from hipie import Segmenter, model_zoo
from hipie.data.build import build_mapped_dataset
from hipie.evaluation import build_evaluator
from hipie_interactive import Prompt, segment

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "projects/Interactive/configs"


def config(*options):
    cfg = model_zoo.get_config(str(CONFIGS / "sam_random_picturebook.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *options])
    return cfg


@pytest.fixture(scope="module")
def model():
    return build_model(config("MODEL.INTERACTIVE.CLICKS", 3)).eval()


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_configurations_name_the_architecture_and_a_data_set(file):
    cfg = model_zoo.get_config(str(CONFIGS / file))
    assert cfg.MODEL.META_ARCHITECTURE == "InteractiveSAM"
    assert len(cfg.DATASETS.TEST) == 1


def test_prompts_give_instances(model, pixels):
    item = {"image": torch.from_numpy(pixels).permute(2, 0, 1)}
    prompts = [Prompt(inside=[(40, 30)]), {"box": (5, 5, 50, 50)}]
    result = model([{**item, "prompts": prompts}])[0]["instances"]
    same = segment(model.sam, pixels, prompts)
    assert np.array_equal(result.pred_masks.numpy(), same.masks)
    assert result.scores.tolist() == pytest.approx(same.scores.tolist())
    assert len(model([{**item, "prompts": []}])[0]["instances"]) == 0
    with pytest.raises(ValueError, match="needs `prompts` or `targets`"):
        model([item])


def test_bfloat16_masks_are_similar(model, pixels):
    item = {"image": torch.from_numpy(pixels).permute(2, 0, 1)}
    prompts = [Prompt(inside=[(40, 30)]), Prompt(polygon=[(20, 10), (70, 10), (70, 50)])]
    targets = np.zeros((1, 60, 90), bool)
    targets[0, 10:40, 20:60] = True
    float32 = model([{**item, "prompts": prompts}])[0]["instances"]
    with torch.autocast("cpu", torch.bfloat16):
        bfloat16 = model([{**item, "prompts": prompts}])[0]["instances"]
        clicked = model([{**item, "targets": targets}])[0]["interactive"][0]
    assert (bfloat16.pred_masks == float32.pred_masks).float().mean() > 0.8
    assert len(clicked.ious) == 3


def test_segmenter_prompt_equals_segment(model, pixels):
    segmenter = Segmenter.from_config(CONFIGS / "sam_random_picturebook.yaml", device="cpu")
    prompts = [{"inside": [(40, 30)], "label": "cup"}]
    result = segmenter.prompt(pixels, prompts)
    assert result.labels == ["cup"]
    assert np.array_equal(result.masks, segment(model.sam, pixels, prompts).masks)
    with pytest.raises(ValueError, match=r"InteractiveSAM cannot refer\(\)"):
        segmenter.refer(pixels, "the cup")


def test_image_without_objects_has_no_clicks(model, pixels):
    item = {"image": torch.from_numpy(pixels).permute(2, 0, 1), "targets": np.zeros((0, 60, 90))}
    assert model([item]) == [{"interactive": []}]


def test_invalid_settings_are_refused():
    with pytest.raises(ValueError, match='there is no SAM model "vit_bb"; similar names are vit_b'):
        build_model(config("MODEL.INTERACTIVE.SAM", "vit_bb"))
    with pytest.raises(ValueError, match="SAM vit_b needs the file of weights"):
        build_model(config("MODEL.INTERACTIVE.SAM", "vit_b"))
    with pytest.raises(ValueError, match="MODEL.INTERACTIVE.CLICKS is 0"):
        build_model(config("MODEL.INTERACTIVE.CLICKS", 0))


def test_data_without_instances_is_refused():
    DatasetCatalog.register("expressions_only", lambda: [{"file_name": "a.png", "expressions": []}])
    MetadataCatalog.get("expressions_only").evaluator_type = "refer"
    try:
        with pytest.raises(ValueError, match=r"expressions_only \(refer\) has no instances"):
            build_mapped_dataset(config(), "expressions_only", training=False)
        with pytest.raises(ValueError, match="not trained"):
            build_mapped_dataset(config(), "expressions_only", training=True)
    finally:
        DatasetCatalog.remove("expressions_only")
        MetadataCatalog.remove("expressions_only")


def test_evaluator_is_that_of_the_architecture():
    evaluator = build_evaluator(config(), "picturebook_val_panoptic")
    assert "simulated clicks" in evaluator.protocol
    evaluator.reset()
    assert evaluator.evaluate()["interactive"]["objects"] == 0


def test_command_line_evaluates_on_the_picture_book(tiny_book, tmp_path):
    from hipie.cli import train

    options = [
        *("PICTUREBOOK.ROOT", str(tiny_book / "interactive"), "PICTUREBOOK.VAL_PAGES", "2"),
        *("MODEL.INTERACTIVE.CLICKS", "2", "OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu"),
        *("DATALOADER.NUM_WORKERS", "0"),
    ]
    file = str(CONFIGS / "sam_random_picturebook.yaml")
    train.run(train.parse_arguments(["--config-file", file, "--eval-only", *options]))
    (tasks,) = json.loads((tmp_path / "results.json").read_text()).values()
    result = tasks["interactive"]
    assert result["objects"] > 2
    assert 1 <= result["NoC@85"] <= result["NoC@90"] <= 2
    assert 0 <= result["mIoU@1"] <= 100
    row = json.loads((tmp_path / "table.json").read_text())[0]
    assert "at most 2 simulated clicks" in row["protocol"]
