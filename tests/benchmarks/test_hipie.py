"""The baseline of the benchmark gives the same results, and stages are timed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from benchmarks.hipie_stages import STAGES, Stopwatch, timed_stages
from benchmarks.published_computation import published_computation

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "hipie.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("benchmark_of_hipie", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_computation_gives_the_same_results(tiny_published, program) -> None:
    item = {**program.image("64x96"), "vocabulary": program.vocabulary(12)}
    (result,) = tiny_published([item])
    with torch.no_grad(), published_computation(tiny_published, 64):
        (expected,) = tiny_published([item])
    torch.testing.assert_close(result["sem_seg"], expected["sem_seg"], atol=1e-4, rtol=1e-3)
    masks = result["instances"].pred_masks
    assert (masks != expected["instances"][: len(masks)]).float().mean() < 1e-3
    (repeated,) = tiny_published([item])
    assert torch.equal(repeated["sem_seg"], result["sem_seg"]), "the patches must be removed"


def test_every_stage_is_timed_once(tiny_published, program) -> None:
    item = {**program.image("64x96"), "vocabulary": program.vocabulary(12)}
    with timed_stages(tiny_published) as stopwatch:
        tiny_published([item])
    assert set(stopwatch.seconds) == set(STAGES)


def test_the_time_of_nested_stages_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0.0, 1.0, 4.0, 9.0])
    monkeypatch.setattr("benchmarks.hipie_stages.time.perf_counter", lambda: next(readings))
    stopwatch = Stopwatch()
    inner = stopwatch.timed("inner", lambda: None)
    stopwatch.timed("outer", inner)()
    assert stopwatch.seconds == {"inner": 3.0, "outer": 6.0}


@pytest.mark.parametrize("count", [10, 12, 133, 459, 2000])
def test_vocabularies_have_the_requested_number_of_names(program, count: int) -> None:
    vocabulary = program.vocabulary(count)
    assert len(vocabulary) == len(set(vocabulary.names)) == count
    assert {"thing", "stuff"} == set(vocabulary.kinds)
