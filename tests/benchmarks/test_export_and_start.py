"""Programs that measure exported and compiled models, start-up, threads and value projections."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from benchmarks import start_up, value_projections, wait_policy
from tests.exported_files import example


def test_forms_of_value_projections_are_equal():
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(5, 4, generator=generator)
    weights = [torch.randn(4, 4, generator=generator) for _ in range(3)]
    biases = [torch.randn(4, generator=generator) for _ in range(3)]
    expected = [memory @ w.t() + b for w, b in zip(weights, biases, strict=True)]
    for compute in value_projections.forms(memory, weights, biases).values():
        for values, other in zip(compute(), expected, strict=True):
            torch.testing.assert_close(values, other)


def test_value_projections_print_a_row_a_form(monkeypatch, capsys):
    sizes = ["--tokens", "64", "--width", "16", "--layers", "2", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", ["value_projections.py", *sizes])
    value_projections.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 6
    assert all(float(row.split("|")[-2]) > 0 for row in rows)


def test_start_up_prints_ratios_to_torch(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["start_up.py", "--repeats", "1"])
    chosen = {"python": "pass", "import torch": "sum(range(10**6))"}
    monkeypatch.setattr(start_up, "programs", lambda folder: chosen)
    start_up.main()
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert rows[1].endswith("| 1.00 |")


def test_programs_of_start_up_are_valid():
    for text in start_up.programs("output").values():
        compile(text, "", "exec")


def test_policies_reach_the_process(monkeypatch, capsys):
    report = "import os, sys; print(sys.argv[2], '1' if 'GOMP_SPINCOUNT' in os.environ else '0')"
    monkeypatch.setattr(wait_policy, "MEASURE", report)
    arguments = ["--busy", "0", "--rounds", "1", "--threads", "3"]
    monkeypatch.setattr(sys, "argv", ["wait_policy.py", *arguments])
    wait_policy.main()
    rows = capsys.readouterr().out.splitlines()[4:]
    assert [row.split("|")[4:-1] for row in rows] == [  # milliseconds
        [" 1000 ", " 0 "],
        [" 3000 ", " 0 "],
        [" 3000 ", " 1000 "],
        [" 3000 ", " 1000 "],
        [" 3000 ", " 0 "],
    ]


def test_agreement_compares_probabilities_and_classes():
    example("run_onnx")  # which the program imports
    from benchmarks import exported

    one = [np.zeros(2), np.array([100.0, -100.0])]
    other = [np.full(2, 0.5), np.array([90.0, -90.0])]
    assert exported.differences(one, other) == pytest.approx([0.5, 0.0], abs=1e-6)
    mask = np.array([[True, False]])
    classes = exported.class_map([{"mask": mask, "category_id": 3}], (1, 2))
    assert classes.tolist() == [[3, -1]]
