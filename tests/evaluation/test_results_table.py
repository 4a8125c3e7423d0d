"""The table of results."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from hipie.data.datasets.catalog import register_dataset
from hipie.errors import InputError
from hipie.evaluation import GroupReferringEvaluator, ResultsTable


@pytest.fixture
def table() -> ResultsTable:
    table = ResultsTable()
    for number, (box, mask) in enumerate([(10.0, 30.0), (20.0, float("nan")), (60.0, 40.0)]):
        name = f"hand_made_wild_{number}"
        register_dataset(name, list, collection="odinw" if number < 2 else "seginw")
        table.add(name, {"bbox": {"AP": box, "AP50": 99.0}, "segm": {"AP": mask}}, object())
    register_dataset("hand_made_groups", list)
    evaluator = GroupReferringEvaluator("hand_made_groups")
    table.add("hand_made_groups", evaluator.evaluate(), evaluator)
    return table


def test_text_has_results_and_protocols(table: ResultsTable) -> None:
    text = table.text()
    (line,) = [row for row in text.splitlines() if row.startswith("hand_made_groups")]
    assert "every (image, expression) pair of a group" in line and "mIoU -" in line
    (line,) = [row for row in text.splitlines() if row.startswith("hand_made_wild_0  bbox")]
    assert "AP 10.00  AP50 99.00" in line and "COCO AP of boxes" in line


def test_averages_over_collections(table: ResultsTable) -> None:
    odinw, seginw = table.averages()
    assert odinw["dataset"] == "odinw (2 sets)" and odinw["task"] == "bbox"
    assert odinw["metrics"] == {"mean AP": 15.0, "median AP": 15.0, "sets": 2}
    assert seginw["metrics"] == {"mean AP": 40.0, "median AP": 40.0, "sets": 1}
    subsets = {"odinw-13": ["hand_made_wild_1"]}
    (_, _, subset) = table.averages(subsets)
    assert subset["dataset"] == "odinw-13 (1 sets)" and subset["metrics"]["mean AP"] == 20.0
    assert len(table.averages({"all": ["hand_made_wild_0", "hand_made_wild_1"]})) == 2


def test_json_has_all_rows(table: ResultsTable, tmp_path: Path) -> None:
    path = table.write(tmp_path)
    assert path == tmp_path / "table.json"
    rows = json.loads(path.read_text())
    assert len(rows) == 7 + 2
    assert rows[3]["metrics"]["AP"] is None and rows[-1]["metrics"]["sets"] == 1
    assert all(row["protocol"] for row in rows)


@pytest.mark.parametrize(
    "name",
    ["PQ", "PQ_th", "SQ", "AP", "AP50", "APs", "AP-cup", "AR@100", "mIoU", "mIoU_parts", "fwIoU"]
    + ["IoU-sky", "mACC", "pACC", "ACC-sky", "oIoU@480", "P@0.5", "macro-mIoU", "PartPQ-no-parts"],
)
@pytest.mark.parametrize("value", [100.1, 35411.97, -1.0, math.inf])
def test_percentages_are_from_0_to_100(name: str, value: float) -> None:
    table = ResultsTable()
    for allowed in (0.0, 100.0, 100 + 1e-9, math.nan):
        table.add("shelf", {"task": {name: allowed}}, None)
    with pytest.raises(InputError, match=rf"shelf: task {re.escape(name)} is .* no percentage"):
        table.add("shelf", {"task": {name: value}}, None)
    assert len(table.rows) == 4


def test_other_numbers_are_not_percentages() -> None:
    names = ["objects", "images", "pairs", "APPLES", "loss", "sets", "RQueries", "Accumulated"]
    ResultsTable().add("shelf", {"task": dict.fromkeys(names, 1e6)}, None)
