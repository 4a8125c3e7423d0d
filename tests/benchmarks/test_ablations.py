"""The arms of the ablations are real options, and their table says what was measured."""

from __future__ import annotations

import argparse
import json

import pytest

from benchmarks import ablations


@pytest.mark.parametrize("arm", ablations.ARMS)
def test_every_arm_is_options_of_the_configuration(arm: str, tiny_cfg) -> None:
    before = tiny_cfg.clone()
    tiny_cfg.merge_from_list(list(ablations.ARMS[arm]))
    assert (tiny_cfg.dump() == before.dump()) == (arm == "full")


def test_the_table_has_means_and_half_the_spread(tmp_path, capsys) -> None:
    options = argparse.Namespace(
        steps=9, seeds=[0, 1], arms=["full", "no_fusion"], output=str(tmp_path)
    )
    for seed, pq in ((0, 40.0), (1, 50.0)):
        folder = ablations.folder("full", seed, options)
        folder.mkdir()
        figures: dict[str, dict[str, float]] = {}
        for task, figure in ablations.FIGURES.values():
            figures.setdefault(task, {})[figure] = pq
        (folder / "results.json").write_text(json.dumps(figures))
    ablations.table(options)
    _, _, full, other = capsys.readouterr().out.splitlines()
    assert full.split()[1:4] == ["45.0", "+-", "5.0"]
    assert "not trained yet" in other
