"""Benchmarks of CLIP and SAM with the smallest models."""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from hipie.data.build import build_test_loader
from hipie.data.datasets import register_all
from hipie.evaluation import build_evaluator
from hipie.modeling.open_vocabulary.clip_ensemble import ScoreEnsemble

ROOT = Path(__file__).parents[2]
SMALL = Namespace(
    clip="random:tiny", sam="random:tiny", masks=5, few=3, many=20, single=2, repeats=1
)


def program(name: str):
    spec = importlib.util.spec_from_file_location(
        f"benchmark_{name}", ROOT / f"benchmarks/{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def costs():
    return program("open_vocabulary")


@pytest.mark.parametrize(
    ("part", "figures"),
    [("masks", {"masks", "crops"}), ("names", {"names"}), ("prompts", {"prompts"})],
)
def test_every_part_prints_ratios(costs, part, figures, capsys) -> None:
    results = getattr(costs, part)(SMALL)
    assert set(results) == figures
    assert "times" in capsys.readouterr().out


def test_names_are_distinct(costs) -> None:
    assert len(set(costs.synthetic_names(20_000))) == 20_000


def test_sweep_equals_single_evaluations(tiny_cfg, tmp_path) -> None:
    tiny_cfg.MODEL.HIPIE.CLIP.ENABLED = True
    tiny_cfg.MODEL.HIPIE.CLIP.MODEL = "random:tiny"
    tiny_cfg.MODEL.HIPIE.OBJECT_MASK_THRESHOLD = 0.0
    tiny_cfg.PICTUREBOOK.ROOT = str(tmp_path / "book")
    register_all(tiny_cfg)
    torch.manual_seed(0)
    model, name = build_model(tiny_cfg).eval(), "picturebook_val_panoptic"
    sweeps = program("clip_sweep")
    pairs = [(0.0, 0.0), (0.9, 0.9)]
    results = sweeps.sweep(tiny_cfg, model, name, pairs, tmp_path / "swept")
    model.clip_ensemble.ensemble = ScoreEnsemble((0.9, 0.9), (0.9, 0.9))
    evaluator = build_evaluator(tiny_cfg, name, str(tmp_path / "alone"))
    evaluator.reset()
    for inputs in build_test_loader(tiny_cfg, name):
        evaluator.process(inputs, model(inputs))
    alone = evaluator.evaluate()
    assert results[0.9, 0.9]["sem_seg"]["mIoU"] == pytest.approx(alone["sem_seg"]["mIoU"])
    assert results[0.0, 0.0]["sem_seg"] != results[0.9, 0.9]["sem_seg"]
    table = sweeps.table(results | {(0.0, 0.9): alone, (0.9, 0.0): alone}, [0.0, 0.9], [0.0, 0.9])
    assert "sem_seg mIoU" in table and "swing" in table
    model.clip_ensemble = None
    with pytest.raises(ValueError, match="CLIP is disabled"):
        sweeps.sweep(tiny_cfg, model, name, pairs, tmp_path)


def test_clicks_and_examples_reuse_features(capsys) -> None:
    pytest.importorskip("hipie_fewshot")
    pytest.importorskip("hipie_interactive")
    small = ["--sam", "random:tiny", "--dino", "random:tiny", "--size", "112"]
    results = program("clicks_and_examples").main([*small, "--repeats", "1", "--steps", "200"])
    assert set(results) == {"clicks", "prototype", "PerSAM", "PerSAM-F"}
    assert results["PerSAM-F"] > 1.2, "the fit is made once"
    assert capsys.readouterr().out.count("times)") == 4
