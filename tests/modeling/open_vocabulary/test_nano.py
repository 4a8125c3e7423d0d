"""Packaged weights on validation pages: CLIP weight sweep, parts and part trees."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hipie import Segmenter, model_zoo
from hipie.data.build import build_test_loader
from hipie.data.datasets import register_all
from hipie.data.picturebook import PictureBook
from hipie.evaluation import build_evaluator

NANO = "nano/hipie_nano_picturebook.yaml"
SWEEP = Path(__file__).parents[3] / "benchmarks/clip_sweep.py"
PAGES = 2
THINGS = ["person", "car", "dog", "house", "tree", "cat", "bus"]
STUFF = ["sky", "grass", "road", "water", "sand", "wall"]


@pytest.fixture(scope="module")
def nano() -> Segmenter:
    if not model_zoo.get_weights(NANO):
        pytest.skip("the package has no weights for the nano model")
    return Segmenter.from_config(NANO, device="cpu")


def options(root: Path, name: str) -> list[str]:
    return [
        *("PICTUREBOOK.ROOT", str(root), "PICTUREBOOK.VAL_PAGES", str(PAGES)),
        *("DATASETS.TEST", f'("{name}",)', "DATALOADER.NUM_WORKERS", "0"),
        *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(root / "output")),
    ]


def test_sweep_prints_a_table_of_both_weights(nano, tiny_book, tmp_path, capsys) -> None:
    spec = importlib.util.spec_from_file_location("benchmark_clip_sweep", SWEEP)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    clip = ["MODEL.HIPIE.CLIP.ENABLED", "True", "MODEL.HIPIE.CLIP.MODEL", "random:tiny"]
    options_of_sweep = [*options(tiny_book / "nano", "picturebook_val_panoptic"), *clip]
    file = tmp_path / "sweep.json"
    given = ["--config-file", NANO, "--output", str(file)]
    program.main([*given, "--alphas", "0", "1", "--betas", "0", "1", *options_of_sweep])
    (table,) = re.findall(r"panoptic_seg PQ, alpha down.*?\n.*\n.*\n.*", capsys.readouterr().out)
    rows = [[float(number) for number in line.split()] for line in table.splitlines()[1:]]
    metrics = {
        (one["alpha"], one["beta"]): one["panoptic_seg"]["PQ"]
        for one in json.loads(file.read_text())["picturebook_val_panoptic"]
    }
    assert rows[0] == [0, 1]
    for alpha, *figures in rows[1:]:
        for beta, figure in zip(rows[0], figures, strict=True):
            assert figure == pytest.approx(metrics[alpha, beta], abs=0.006)
    assert metrics[0, 0] > metrics[1, 1] + 5, "a CLIP with random weights lowers the scores"
    swing = float(re.search(r"swing ([\d.]+)", table)[1])
    assert swing == pytest.approx(max(metrics.values()) - min(metrics.values()), abs=0.006)


def test_evaluator_measures_part_consistency(nano, tiny_book) -> None:
    name = "picturebook_val_parts"
    cfg = model_zoo.get_config(NANO, options(tiny_book / "nano", name))
    register_all(cfg)
    plain, metrics = nano.model.settings, {}
    try:
        for consistent in (False, True):
            nano.model.settings = replace(plain, consistent_parts=consistent)
            evaluator = build_evaluator(cfg, name, cfg.OUTPUT_DIR)
            evaluator.reset()
            with torch.no_grad():
                for inputs in build_test_loader(cfg, name):
                    evaluator.process(inputs, nano.model(inputs))
            metrics[consistent] = evaluator.evaluate()["parts"]
    finally:
        nano.model.settings = plain
    for scores in metrics.values():
        assert 0 < scores["mIoU_parts"] <= 100 and 50 < scores["inside_whole"] <= 100
    assert metrics[True]["inside_whole"] != metrics[False]["inside_whole"]


def test_parts_form_a_tree(nano) -> None:
    parts = {"person": {"head": ["eye", "mouth"], "torso": [], "arm": [], "leg": []}}
    parts |= {"car": ["wheel", "window", "body"], "house": ["roof", "door", "window"]}
    book = PictureBook(0, "val")
    levels = set()
    for number in range(4):
        segmentation = nano.segment(book.page(number).image, THINGS, STUFF, parts)
        assert segmentation.consistency == 1 and len(segmentation)
        lines = segmentation.tree.splitlines()
        walked = list(segmentation.walk())
        assert len(lines) == len(walked)
        for line, (depth, segment) in zip(lines, walked, strict=True):
            assert line.startswith("  " * depth + segment.label)
            levels.add(depth)
            for part in segment.parts:
                assert part.mask.any() and not np.any(part.mask & ~segment.mask)
                assert part.kind == "part" and segment.kind != "stuff"
        (written,) = [json.loads(json.dumps(segmentation.to_coco()))]
        assert [len(record.get("parts", [])) for record in written] == [
            len(s.parts) for s in segmentation
        ]
    assert {0, 1} <= levels, "some thing on four pages has parts"
