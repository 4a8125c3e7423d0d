"""The ways of computing that the benchmark compares give the same answers."""

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
    """Injectors that say something, or the operator would hardly matter."""
    from refersam import ReferSAM
    from refersam.modeling.criterion import MaskCriterion
    from refersam.modeling.text import build_expression_encoder

    torch.manual_seed(0)
    text = build_expression_encoder(str(tiny_text), frozen=False, max_tokens=20)
    model = ReferSAM(sam="vit_t", text_encoder=text, criterion=MaskCriterion(64)).eval()
    for one in model.interactor.interactions:
        torch.nn.init.ones_(one.injector.gamma)
    return model


@pytest.fixture
def ask(program, model):
    question = program.question(model, OPTIONS, 2)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return question()

    return run


def test_grid_sample_form_agrees(program, ask):
    calls = []

    def form(*given):
        calls.append(given)
        return program.grid_sample_form(*given)

    ours = ask()
    with mock.patch(program.OPERATOR, form):
        theirs = ask()
    assert len(calls) == 10
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    assert torch.equal(ask(), ours)


def test_projections_as_written_agree(program, ask):
    ours = ask()
    with mock.patch(program.FOLDING, lambda *_: False):
        plain = ask()
    assert not torch.equal(ours, plain)
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("parts", ["network_parts", "interactor_parts"])
def test_every_part_is_timed_and_none_changes(program, model, ask, parts):
    ours = ask()
    chosen = getattr(program, parts)(model)
    with program.watched(model, chosen) as watch:
        timed = ask()
    assert torch.equal(timed, ours)
    assert set(watch.seconds) == set(chosen)
    assert all(seconds > 0 for seconds in watch.seconds.values())


@pytest.mark.parametrize("question", ["sampling", "profile", "expressions", "precision"])
def test_questions_are_answered(program, model, question, capsys):
    with torch.no_grad():
        getattr(program, question)(model, OPTIONS)
    assert "times" in capsys.readouterr().out
