"""The architecture through Detectron2's registry, loaders and evaluators, and the command line."""

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
from hipie_fewshot import Example, ExampleError
from hipie_fewshot.__main__ import main

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "projects/FewShot/configs"
METHODS = ("prototype", "persam", "persam_f", "matcher")


def config(method, *options):
    file = CONFIGS / f"{method}_random_picturebook.yaml"
    return model_zoo.get_config(str(file), ["MODEL.DEVICE", "cpu", *options])


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_configurations_name_the_architecture_and_a_method(file):
    cfg = model_zoo.get_config(str(CONFIGS / file))
    assert cfg.MODEL.META_ARCHITECTURE == "FewShot"
    named = max((one for one in METHODS if file.startswith(f"{one}_")), key=len)
    assert named == cfg.MODEL.FEWSHOT.METHOD
    assert cfg.MODEL.FEWSHOT.EPISODES.FOLD < cfg.MODEL.FEWSHOT.EPISODES.FOLDS


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_one_result_type(method, pixels, example):
    if method == "matcher":
        pytest.importorskip("ot")
    model = build_model(config(method)).eval()
    other = Example(example.image, ~example.mask, "table")
    found = model.segment_like(pixels, [example, other, example])
    assert isinstance(found, Segmentation)
    assert found.labels == ["cup", "table"]
    assert found.masks.shape == (2, 60, 90)
    assert found.to_coco()[0]["segmentation"]["size"] == [60, 90]
    item = {"image": torch.from_numpy(pixels).permute(2, 0, 1), "examples": [example, example]}
    assert np.array_equal(model([item])[0]["few_shot"].mask, found.masks[0])
    with pytest.raises(ValueError, match="FewShot needs `examples`"):
        model([{**item, "examples": []}])
    with pytest.raises(ExampleError, match="there is no example"):
        model.segment_like(pixels, [])


def test_unknown_names_have_near_ones():
    with pytest.raises(ValueError, match='no few-shot method "persan"; near ones are persam'):
        build_model(config("persam", "MODEL.FEWSHOT.METHOD", "persan"))
    with pytest.raises(ValueError, match='there is no SAM model "vit_bb"; near ones are vit_b'):
        build_model(config("persam", "MODEL.FEWSHOT.SAM", "vit_bb"))
    with pytest.raises(ValueError, match='there is no ViT of timm "vit_larg_patch14_dinov2"'):
        build_model(config("prototype", "MODEL.FEWSHOT.DINO", "vit_larg_patch14_dinov2"))


@pytest.mark.parametrize("method", METHODS)
def test_train_net_evaluates_on_the_picture_book(method, tiny_book, tmp_path):
    import train_net

    if method == "matcher":
        pytest.importorskip("ot")
    options = [
        *("PICTUREBOOK.ROOT", str(tiny_book / "few_shot"), "PICTUREBOOK.VAL_PAGES", "4"),
        *("MODEL.FEWSHOT.EPISODES.NUMBER", "2", "OUTPUT_DIR", str(tmp_path)),
        *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"),
    ]
    file = str(CONFIGS / f"{method}_random_picturebook.yaml")
    train_net.main(train_net.parse_arguments(["--config-file", file, "--eval-only", *options]))
    found = json.loads((tmp_path / "results.json").read_text())["few_shot"]
    assert found["episodes"] == 2
    assert 0 <= found["mIoU"] <= 100
    assert 0 <= found["FB-IoU"] <= 100
    assert "1 example(s)" in json.loads((tmp_path / "table.json").read_text())[0]["protocol"]


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_finds_much_the_same(method, pixels, example):
    if method == "matcher":
        pytest.importorskip("ot")
    model = build_model(config(method)).eval()
    exact = model.segment_like(pixels, [example])
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.segment_like(pixels, [example])
    assert rough.masks.shape == exact.masks.shape
    # PerSAM's best of three masks may be another one.
    assert (rough.masks == exact.masks).mean() > (0.6 if method.startswith("persam") else 0.8)


def test_the_segmenter_answers_with_examples(pixels, example, tmp_path):
    file = str(CONFIGS / "prototype_random_picturebook.yaml")
    segmenter = Segmenter.from_config(file, device="cpu")
    Image.fromarray(example.mask).save(tmp_path / "mask.png")
    found = segmenter.like(pixels, [(example.image, tmp_path / "mask.png", "cup")])
    assert found.labels == ["cup"]
    same = segmenter.model.segment_like(pixels, [example])
    assert np.array_equal(found.masks, same.masks)
    with pytest.raises(ValueError, match=r"FewShot cannot segment\(\)"):
        segmenter.segment(pixels, things=["cup"])


@pytest.fixture
def files(pixels, example, in_tmp):
    Image.fromarray(pixels).save("page.png")
    Image.fromarray(example.image).save("shown.png")
    Image.fromarray(example.mask).save("mask.png")
    Image.new("1", example.mask.shape[::-1]).save("empty.png")
    return str(CONFIGS / "prototype_random_picturebook.yaml")


def test_the_command_line_writes_an_image(files, capsys):
    given = ["--config-file", files, "--input", "page.png", "--output", "out"]
    main([*given, "--example", "shown.png", "mask.png", "--label", "cup"])
    assert "page.png:" in capsys.readouterr().out
    with Image.open("out/page.png") as drawn:
        assert drawn.width >= 90


@pytest.mark.parametrize(
    ("shown", "expression"),
    [
        (["shown.png", "empty.png"], 'the mask of an example of "object" is empty'),
        (["page.png", "mask.png"], "an example's mask is 70x80, and its image is 90x60"),
        (["none.png", "mask.png"], "none.png: there is no such image"),
    ],
)
def test_a_bad_input_ends_with_one_expression(files, shown, expression):
    with pytest.raises(SystemExit, match=expression) as caught:
        main(["--config-file", files, "--input", "page.png", "--example", *shown])
    assert "\n" not in str(caught.value)
