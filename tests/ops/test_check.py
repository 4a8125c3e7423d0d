"""`python -m hipie.ops.check`."""

from __future__ import annotations

import pytest
import torch

from hipie.ops import check, ms_deform_attn


def test_report_of_a_correct_operator(capsys):
    assert check.main(["--repeats", "0"]) == 0
    printed = capsys.readouterr().out
    assert "passed" in printed
    assert printed.count("  ok") == len(check.BOUNDS)
    assert "milliseconds" not in printed


def test_a_wrong_operator_is_reported(monkeypatch, capsys):
    def wrong(value, shapes, starts, locations, weights):
        return ms_deform_attn(value, shapes, starts, locations, weights) * (1 + 1e-3)

    monkeypatch.setattr(check, "ms_deform_attn", wrong)
    assert check.main(["--repeats", "0"]) == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed
    assert "FAILED" in printed


def test_a_wrong_gradient_is_found():
    def wrong(value, shapes, starts, locations, weights):
        output = ms_deform_attn(value, shapes, starts, locations.detach(), weights)
        return output + 0 * locations.sum()

    assert check.largest_error(wrong, torch.float64) > 0.9
    assert check.largest_error(ms_deform_attn, torch.float64) < 1e-12


def test_speed_is_printed_for_every_case(monkeypatch):
    monkeypatch.setattr(check, "SPEED_CASES", (check.Case("tiny", check.SMALL, 9, 8),))
    lines, passed = check.report("cpu", repeats=1)
    assert passed
    (line,) = [line for line in lines if line.startswith("tiny")]
    assert line.count("x") == 2


def test_negative_repeats_are_refused():
    with pytest.raises(SystemExit):
        check.main(["--repeats", "-1"])
