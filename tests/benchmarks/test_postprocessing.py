"""The benchmark of postprocessing prints operators, waits, time and memory."""

from __future__ import annotations

import re

import pytest

from benchmarks import postprocessing


def test_every_kind_of_results_is_measured(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(postprocessing, "QUERIES", {"things": 40, "stuff": 20})
    arguments = ["--sections", "published", "--size", "64", "96", "--classes", "12"]
    arguments += ["--repeats", "1", "--chunks", "1", "64"]
    monkeypatch.setattr("sys.argv", ["postprocessing.py", *arguments])
    postprocessing.main()
    rows = re.findall(
        r"^\| (\w+) \| (\d+) \| \d+\.\d+ \| (\d+) \| (\d+) \| (\d+) \|$",
        capsys.readouterr().out,
        re.MULTILINE,
    )
    kinds = ["all", "instances", "panoptic", "scores", "labels"]
    assert [(results, int(mib)) for results, mib, *_ in rows] == [
        (results, mib) for results in kinds for mib in (1, 64)
    ]
    operators = {(results, int(mib)): int(count) for results, mib, count, *_ in rows}
    assert operators["all", 64] < operators["all", 1]
    assert all(0 < int(on_device) <= 600 and 1 <= int(waits) <= 5 for *_, on_device, waits in rows)


@pytest.mark.slow
def test_labels_take_less_memory_than_scores(capsys) -> None:
    postprocessing.measure_memory((320, 480), 600)
    scores, labels = map(int, re.findall(r"^\| \w+ \| (\d+) \|$", capsys.readouterr().out, re.M))
    assert scores - labels > 0.5 * 4 * 600 * 320 * 480 / 2**20
