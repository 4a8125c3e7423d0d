"""The weights in the package, on pages that they have not seen: CLIP's sweep, parts, trees."""

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


def test_the_sweep_prints_a_table_of_both_weights(nano, tiny_book, tmp_path, capsys) -> None:
    spec = importlib.util.spec_from_file_location("benchmark_clip_sweep", SWEEP)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    clip = ["MODEL.HIPIE.CLIP.ENABLED", "True", "MODEL.HIPIE.CLIP.MODEL", "random:tiny"]
    asked = [*options(tiny_book / "nano", "picturebook_val_panoptic"), *clip]
    file = tmp_path / "sweep.json"
    given = ["--config-file", NANO, "--output", str(file)]
    program.main([*given, "--alphas", "0", "1", "--betas", "0", "1", *asked])
    (table,) = re.findall(r"panoptic_seg PQ, alpha down.*?\n.*\n.*\n.*", capsys.readouterr().out)
    rows = [[float(number) for number in line.split()] for line in table.splitlines()[1:]]
    found = {
        (one["alpha"], one["beta"]): one["panoptic_seg"]["PQ"]
        for one in json.loads(file.read_text())["picturebook_val_panoptic"]
    }
    assert rows[0] == [0, 1]
    for alpha, *figures in rows[1:]:
        for beta, figure in zip(rows[0], figures, strict=True):
            assert figure == pytest.approx(found[alpha, beta], abs=0.006)
    assert found[0, 0] > found[1, 1] + 5, "a CLIP with random weights knows nothing"
    swing = float(re.search(r"swing ([\d.]+)", table)[1])
    assert swing == pytest.approx(max(found.values()) - min(found.values()), abs=0.006)


def test_consistency_is_counted_by_the_evaluator(nano, tiny_book) -> None:
    name = "picturebook_val_parts"
    cfg = model_zoo.get_config(NANO, options(tiny_book / "nano", name))
    register_all(cfg)
    plain, found = nano.model.settings, {}
    try:
        for consistent in (False, True):
            nano.model.settings = replace(plain, consistent_parts=consistent)
            judge = build_evaluator(cfg, name, cfg.OUTPUT_DIR)
            judge.reset()
            with torch.no_grad():
                for inputs in build_test_loader(cfg, name):
                    judge.process(inputs, nano.model(inputs))
            found[consistent] = judge.evaluate()["parts"]
    finally:
        nano.model.settings = plain
    for scores in found.values():
        assert 0 < scores["mIoU_parts"] <= 100 and 50 < scores["inside_whole"] <= 100
    assert found[True]["inside_whole"] != found[False]["inside_whole"]


def test_things_with_parts_make_a_tree(nano) -> None:
    parts = {"person": {"head": ["eye", "mouth"], "torso": [], "arm": [], "leg": []}}
    parts |= {"car": ["wheel", "window", "body"], "house": ["roof", "door", "window"]}
    book = PictureBook(0, "val")
    levels = set()
    for number in range(4):
        found = nano.segment(book.page(number).image, THINGS, STUFF, parts)
        assert found.consistency == 1 and len(found)
        lines = found.tree.splitlines()
        walked = list(found.walk())
        assert len(lines) == len(walked)
        for line, (depth, segment) in zip(lines, walked, strict=True):
            assert line.startswith("  " * depth + segment.label)
            levels.add(depth)
            for part in segment.parts:
                assert part.mask.any() and not np.any(part.mask & ~segment.mask)
                assert part.kind == "part" and segment.kind != "stuff"
        (written,) = [json.loads(json.dumps(found.to_coco()))]
        assert [len(one.get("parts", [])) for one in written] == [len(s.parts) for s in found]
    assert {0, 1} <= levels, "of four pages some thing has parts"
