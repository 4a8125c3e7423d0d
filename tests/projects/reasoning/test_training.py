"""Training, resuming and evaluating from the configuration of tiny networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hipie import Segmenter, model_zoo
from hipie.cli.train import main

CONFIGS = Path(__file__).parents[3] / "projects/Reasoning/configs"
TINY = str(CONFIGS / "reasoning_tiny_picturebook.yaml")


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_configurations_have_keys_that_exist(file) -> None:
    cfg = model_zoo.get_config(str(CONFIGS / file), [])
    assert cfg.MODEL.META_ARCHITECTURE == "ReasoningSeg"


@pytest.mark.slow
def test_training_resumes_evaluates_and_answers(tiny_book, tmp_path) -> None:
    """A resumed training ends with the weights of an uninterrupted one."""
    book = ["PICTUREBOOK.ROOT", str(tiny_book)]
    whole, half = (["OUTPUT_DIR", str(tmp_path / name)] for name in ("whole", "half"))
    common = ["--config-file", TINY]
    main([*common, *book, *whole])
    main([*common, *book, *half, "SOLVER.CHECKPOINT_PERIOD", "2"])
    (tmp_path / "half/last_checkpoint").write_text("model_0000001.pth")
    for name in ("model_final.pth", "model_0000003.pth"):
        (tmp_path / "half" / name).unlink()
    main([*common, "--resume", *book, *half])
    states = [
        torch.load(tmp_path / name / "model_final.pth", weights_only=False)["model"]
        for name in ("whole", "half")
    ]
    assert states[0].keys() == states[1].keys()
    assert not any("sam.image_encoder" in name for name in states[0])
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    weights = str(tmp_path / "whole/model_final.pth")
    evaluated = ["MODEL.WEIGHTS", weights, "OUTPUT_DIR", str(tmp_path / "eval")]
    main([*common, "--eval-only", *book, *evaluated])
    first, second = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "eval")
    )
    assert "gIoU" in json.dumps(second)
    assert first["results"] == second["results"] if "results" in first else first == second
    segmenter = Segmenter.from_config(TINY, weights, "cpu")
    answer, result = segmenter.reason(torch.zeros(3, 64, 96, dtype=torch.uint8), "what can fly?")
    assert isinstance(answer, str)
    assert len(result) == answer.count("[SEG]")
