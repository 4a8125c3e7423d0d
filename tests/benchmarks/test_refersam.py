"""Benchmark of ReferSAM: compared implementations have equal results."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from unittest import mock

import pytest
import torch

pytest.importorskip("refersam")
pytest.importorskip("segment_anything")

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "refersam.py"
OPTIONS = argparse.Namespace(sam="vit_t", size=64, repeats=1)


@pytest.fixture(scope="module")
def program():
    spec = importlib.util.spec_from_file_location("benchmark_of_refersam", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tiny_text):
    """Model whose injectors have a scale of 1, so that the operator has an effect."""
    from refersam import ReferSAM
    from refersam.modeling.criterion import MaskCriterion
    from refersam.modeling.text import build_expression_encoder

    torch.manual_seed(0)
    text = build_expression_encoder(str(tiny_text), frozen=False, max_tokens=20)
    model = ReferSAM(sam="vit_t", text_encoder=text, criterion=MaskCriterion(64)).eval()
    for block in model.interactor.interactions:
        torch.nn.init.ones_(block.injector.gamma)
    return model


@pytest.fixture
def run_model(program, model):
    call = program.forward_call(model, OPTIONS, 2)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return call()

    return run


def test_grid_sampling_equals_the_operator(program, run_model):
    calls = []

    def grid_sample(*arguments):
        calls.append(arguments)
        return program.grid_sample_attention(*arguments)

    expected = run_model()
    with mock.patch(program.OPERATOR, grid_sample):
        actual = run_model()
    assert len(calls) == 10
    torch.testing.assert_close(expected, actual, atol=1e-4, rtol=1e-3)
    assert torch.equal(run_model(), expected)


def test_folding_does_not_change_results(program, run_model):
    expected = run_model()
    with mock.patch(program.SHOULD_FOLD, lambda *_: False):
        plain = run_model()
    assert not torch.equal(expected, plain)
    torch.testing.assert_close(expected, plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("parts", ["network_parts", "interactor_parts"])
def test_timing_covers_every_module_and_keeps_results(program, model, run_model, parts):
    expected = run_model()
    modules = getattr(program, parts)(model)
    with program.timed_modules(model, modules) as stopwatch:
        timed = run_model()
    assert torch.equal(timed, expected)
    assert set(stopwatch.seconds) == set(modules)


@pytest.mark.parametrize("measurement", ["sampling", "profile", "expressions", "precision"])
def test_measurements_print_ratios(program, model, measurement, capsys):
    with torch.no_grad():
        getattr(program, measurement)(model, OPTIONS)
    assert "times" in capsys.readouterr().out
