"""The way of working that the benchmark compares with gives the same answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from benchmarks.hipie_stages import STAGES, watched
from benchmarks.published_way import published_way

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "hipie.py"


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("benchmark_of_hipie", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_ways_agree(tiny_published, program) -> None:
    item = {**program.image("64x96"), "vocabulary": program.vocabulary(12)}
    (ours,) = tiny_published([item])
    with torch.no_grad(), published_way(tiny_published, 64):
        (theirs,) = tiny_published([item])
    torch.testing.assert_close(ours["sem_seg"], theirs["sem_seg"], atol=1e-4, rtol=1e-3)
    masks = ours["instances"].pred_masks
    assert (masks != theirs["instances"][: len(masks)]).float().mean() < 1e-3
    (again,) = tiny_published([item])
    assert torch.equal(again["sem_seg"], ours["sem_seg"]), "the other way must leave no trace"


def test_every_stage_is_timed_once(tiny_published, program) -> None:
    item = {**program.image("64x96"), "vocabulary": program.vocabulary(12)}
    with watched(tiny_published) as watch:
        tiny_published([item])
    assert set(watch.seconds) == set(STAGES)
    assert all(seconds > 0 for seconds in watch.seconds.values())


@pytest.mark.parametrize("count", [10, 12, 133, 459, 2000])
def test_vocabularies_have_as_many_names_as_asked_for(program, count: int) -> None:
    words = program.vocabulary(count)
    assert len(words) == len(set(words.names)) == count
    assert {"thing", "stuff"} == set(words.kinds)
