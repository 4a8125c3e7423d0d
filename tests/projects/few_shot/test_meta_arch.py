"""`FewShot` in Detectron2's registry, loaders and evaluators, `Segmenter`, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from hipie import Segmenter, model_zoo
from hipie.segmentation import Segmentation
from hipie.task_predictors import PreparedImage
from hipie_fewshot import Example, ExampleError, FewShotPredictor
from hipie_fewshot.__main__ import main

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "projects/FewShot/configs"
METHODS = ("prototype", "persam", "persam_f", "matcher", "clip_prototype")


def config(method, *options):
    file = CONFIGS / f"{method}_random_picturebook.yaml"
    return model_zoo.get_config(str(file), ["MODEL.DEVICE", "cpu", *options])


def segment(model, pixels, examples):
    image = PreparedImage(model, pixels, {})
    return FewShotPredictor(model).predict([image], examples=examples)[0]


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_configurations_name_the_architecture_and_a_method(file):
    cfg = model_zoo.get_config(str(CONFIGS / file))
    assert cfg.MODEL.META_ARCHITECTURE == "FewShot"
    named = max((m for m in METHODS if file.startswith(f"{m}_")), key=len)
    assert named == cfg.MODEL.FEWSHOT.METHOD
    assert cfg.MODEL.FEWSHOT.EPISODES.FOLD < cfg.MODEL.FEWSHOT.EPISODES.FOLDS


@pytest.mark.parametrize("method", METHODS)
def test_every_method_predicts_a_mask_per_label(method, pixels, example):
    if method == "matcher":
        pytest.importorskip("ot")
    model = build_model(config(method)).eval()
    other = Example(example.image, ~example.mask, "table")
    result = segment(model, pixels, [example, other, example])
    assert isinstance(result, Segmentation)
    assert result.labels == ["cup", "table"]
    assert result.masks.shape == (2, 60, 90)
    assert result.to_coco()[0]["segmentation"]["size"] == [60, 90]
    item = {"image": torch.from_numpy(pixels).permute(2, 0, 1), "examples": [example, example]}
    assert np.array_equal(model([item])[0]["few_shot"].mask.cpu(), result.masks[0])
    with pytest.raises(ValueError, match="FewShot needs `examples`"):
        model([{**item, "examples": []}])
    with pytest.raises(ExampleError, match="there are no examples"):
        segment(model, pixels, [])


def test_unknown_names_are_refused_with_similar_ones():
    with pytest.raises(ValueError, match='no few-shot method "persan"; similar names are persam'):
        build_model(config("persam", "MODEL.FEWSHOT.METHOD", "persan"))
    with pytest.raises(ValueError, match='there is no SAM model "vit_bb"; similar names are vit_b'):
        build_model(config("persam", "MODEL.FEWSHOT.SAM", "vit_bb"))
    with pytest.raises(ValueError, match='there is no ViT of timm "vit_larg_patch14_dinov2"'):
        build_model(config("prototype", "MODEL.FEWSHOT.DINO", "vit_larg_patch14_dinov2"))


@pytest.mark.parametrize("method", METHODS)
def test_command_line_evaluates_on_the_picture_book(method, tiny_book, tmp_path):
    from hipie.cli import train

    if method == "matcher":
        pytest.importorskip("ot")
    options = [
        *("PICTUREBOOK.ROOT", str(tiny_book / "few_shot"), "PICTUREBOOK.VAL_PAGES", "4"),
        *("MODEL.FEWSHOT.EPISODES.NUMBER", "2", "OUTPUT_DIR", str(tmp_path)),
        *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"),
    ]
    file = str(CONFIGS / f"{method}_random_picturebook.yaml")
    train.run(train.parse_arguments(["--config-file", file, "--eval-only", *options]))
    (tasks,) = json.loads((tmp_path / "results.json").read_text()).values()
    result = tasks["few_shot"]
    assert result["episodes"] == 2
    assert 0 <= result["mIoU"] <= 100
    assert 0 <= result["FB-IoU"] <= 100
    assert "1 example(s)" in json.loads((tmp_path / "table.json").read_text())[0]["protocol"]


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_masks_are_similar(method, pixels, example):
    if method == "matcher":
        pytest.importorskip("ot")
    model = build_model(config(method)).eval()
    float32 = segment(model, pixels, [example])
    with torch.autocast("cpu", torch.bfloat16):
        bfloat16 = segment(model, pixels, [example])
    assert bfloat16.masks.shape == float32.masks.shape
    # PerSAM's best of three masks may be another one.
    assert (bfloat16.masks == float32.masks).mean() > (0.6 if method.startswith("persam") else 0.8)


def test_segmenter_like_equals_the_predictor(pixels, example, tmp_path):
    file = str(CONFIGS / "prototype_random_picturebook.yaml")
    segmenter = Segmenter.from_config(file, device="cpu")
    Image.fromarray(example.mask).save(tmp_path / "mask.png")
    result = segmenter.like(pixels, [(example.image, tmp_path / "mask.png", "cup")])
    assert result.labels == ["cup"]
    same = segment(segmenter.model, pixels, [example])
    assert np.array_equal(result.masks, same.masks)
    with pytest.raises(ValueError, match=r"FewShot cannot segment\(\)"):
        segmenter.segment(pixels, things=["cup"])


@pytest.mark.parametrize("method", METHODS)
def test_query_image_is_encoded_once_for_all_labels(method, pixels, example, monkeypatch):
    if method == "matcher":
        pytest.importorskip("ot")
    file = str(CONFIGS / f"{method}_random_picturebook.yaml")
    segmenter = Segmenter.from_config(file, device="cpu")
    other = Example(example.image, ~example.mask, "table")
    expected = segmenter.like(pixels, [example, other])
    calls = []
    encode = segmenter.model.method.encode
    monkeypatch.setattr(
        segmenter.model.method, "encode", lambda image: calls.append(1) or encode(image)
    )
    segmenter.set_image(pixels)
    assert np.array_equal(segmenter.like(examples=[example, other]).masks, expected.masks)
    assert segmenter.like(examples=[other]).labels == ["table"]
    assert len(calls) == 1


@pytest.fixture
def files(pixels, example, in_tmp):
    Image.fromarray(pixels).save("query.png")
    Image.fromarray(example.image).save("support.png")
    Image.fromarray(example.mask).save("mask.png")
    Image.new("1", example.mask.shape[::-1]).save("empty.png")
    return str(CONFIGS / "prototype_random_picturebook.yaml")


def test_command_line_writes_an_image(files, capsys):
    arguments = ["--config-file", files, "--input", "query.png", "--output", "out"]
    main([*arguments, "--example", "support.png", "mask.png", "--label", "cup"])
    assert "query.png:" in capsys.readouterr().out
    with Image.open("out/query.png") as drawn:
        assert drawn.width >= 90


@pytest.mark.parametrize(
    ("support", "message"),
    [
        (["support.png", "empty.png"], 'the mask of an example of "object" is empty'),
        (["query.png", "mask.png"], "an example's mask is 70x80, and its image is 90x60"),
        (["none.png", "mask.png"], "none.png: there is no such image"),
    ],
)
def test_invalid_input_ends_with_one_line(files, support, message):
    with pytest.raises(SystemExit, match=message) as caught:
        main(["--config-file", files, "--input", "query.png", "--example", *support])
    assert "\n" not in str(caught.value)
