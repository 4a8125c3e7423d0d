"""The report in words."""

from __future__ import annotations

from hipie.checkpoint import LoadReport


def test_a_complete_report_is_short():
    report = LoadReport(loaded=12, dropped=("video.a",))
    assert report.complete
    assert str(report) == "12 tensors loaded; 1 left out on purpose (video.a)"


def test_an_incomplete_report_names_the_first_three():
    report = LoadReport(
        missing=("a", "b", "c", "d"), unexpected=("x",), mismatched=("y",), loaded=3
    )
    assert not report.complete
    assert str(report) == (
        "3 tensors loaded; 4 not in the file, left as built (a, b, c, ...); "
        "1 not in the model, ignored (x); 1 of another shape, ignored (y)"
    )
