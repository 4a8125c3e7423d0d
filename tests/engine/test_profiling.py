"""Profile of training steps."""

from __future__ import annotations

import gzip
import json
import logging

import pytest

from hipie.engine.profiling import StepProfiler
from tests.toy_trainer import run


@pytest.mark.parametrize(("max_iter", "steps"), [(8, 3), (4, 2)])
def test_profile_has_the_operators_of_the_steps(make_trainer, tmp_path, max_iter, steps):
    """Three steps are asked for; the shorter training has two after its first two."""
    trainer = make_trainer("SOLVER.MAX_ITER", max_iter)
    trainer.register_hooks([StepProfiler(3, str(tmp_path))])
    run(trainer)
    table = (tmp_path / "profile/operators_rank0.txt").read_text()
    assert table.startswith(f"{steps} iterations from 2 on")
    assert "aten::addmm" in table
    with gzip.open(tmp_path / "profile/trace_rank0.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    assert sum(event.get("name") == "aten::rand" for event in events) == steps
    assert (tmp_path / "model_final.pth").is_file()


def test_training_without_steps_to_profile_says_so(make_trainer, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    trainer = make_trainer("SOLVER.MAX_ITER", 2)
    trainer.register_hooks([StepProfiler(3, str(tmp_path))])
    run(trainer)
    assert "No step was profiled: the training ended after 2" in caplog.text
    assert not (tmp_path / "profile").exists()
