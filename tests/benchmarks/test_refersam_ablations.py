"""Ablations of ReferSAM: configuration overrides, shuffling, commands and results table."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

pytest.importorskip("refersam")

from benchmarks import refersam_ablations as ablations
from hipie import model_zoo


@pytest.mark.parametrize("arm", ablations.ARMS)
def test_every_arm_but_the_full_model_changes_the_configuration(arm: str) -> None:
    file = str(ablations.arms.ROOT / ablations.CONFIGURATION)
    plain = model_zoo.get_config(file)
    assert (model_zoo.get_config(file, ablations.ARMS[arm]).dump() == plain.dump()) == (
        arm == "full"
    )
    assert plain.DATASETS.TEST == (ablations.DATASET,)


def test_shuffling_permutes_the_expressions_of_the_first_batches() -> None:
    batches = [[{"image_id": 1, "expressions": list("abc")}], [{"image_id": 2, "expressions": []}]]
    batches += [[{"image_id": 3, "expressions": list("defghij")}]]
    batches += [[{"image_id": 4, "expressions": ["never"]}]]
    plain = ablations.FirstBatches(batches, 3)
    assert len(plain) == 3 and list(plain) == batches[:3]
    shuffled = ablations.FirstBatches(batches, 3, seed=0)
    items = [item for batch in shuffled for item in batch]
    assert [item["image_id"] for item in items] == [1, 2, 3]
    assert [len(item["expressions"]) for item in items] == [3, 0, 7]
    expressions = [expression for item in items for expression in item["expressions"]]
    assert sorted(expressions) == list("abcdefghij") != expressions
    again = [item for batch in shuffled for item in batch]
    assert expressions == [expression for item in again for expression in item["expressions"]]
    assert len(ablations.FirstBatches(batches, 9)) == 4


def options(folder, **overrides) -> argparse.Namespace:
    defaults = {
        "steps": 9,
        "seeds": [0, 1],
        "arms": list(ablations.ARMS)[:3],
        "start": None,
        "opts": [],
    }
    return argparse.Namespace(**{**defaults, "output": folder, **overrides})


def write(folder, arm: str, seed: int, value: float) -> None:
    arm_folder = ablations.folder(arm, seed, options(folder))
    arm_folder.mkdir()
    metrics = dict.fromkeys(ablations.METRICS, value)
    (arm_folder / ablations.RESULTS_FILE).write_text(json.dumps(metrics))


def test_table_of_available_results(tmp_path) -> None:
    write(tmp_path, "full", 0, 40.0)
    write(tmp_path, "full", 1, 50.0)
    *_, full, missing, _ = ablations.table(options(tmp_path)).splitlines()
    assert full == "| full | 45.0 ± 5.0 | 45.0 ± 5.0 | 45.0 ± 5.0 |"
    assert missing.startswith("| no interactor | not trained yet |")


def test_arm_with_results_is_not_trained(tmp_path, monkeypatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(ablations.arms, "call", lambda command, threads: calls.append(command))
    write(tmp_path, "full", 0, 40.0)
    arguments = options(tmp_path, threads=1, train_pages=5, pages=2)
    ablations.run_arm("full", 0, arguments)
    assert not calls
    (ablations.folder("full", 1, arguments)).mkdir()
    ablations.run_arm("full", 1, arguments)
    training, evaluation = calls
    assert "--resume" in training and training[training.index("SEED") + 1] == "1"
    assert "--evaluate" in evaluation
    (ablations.folder("full", 1, arguments) / "model_final.pth").write_bytes(b"")
    ablations.run_arm("full", 1, arguments)
    assert len(calls) == 3 and "--evaluate" in calls[2]


def test_initial_weights_are_the_sam_modules_of_a_model(tmp_path, monkeypatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(ablations.arms, "call", lambda command, threads: calls.append(command))
    tensors = {f"{part}.weight": torch.ones(1) for part in ("mask_decoder", "interactor")}
    torch.save({"model": tensors}, tmp_path / "trained.pth")
    start = str(tmp_path / "trained.pth")
    arguments = options(tmp_path, threads=1, train_pages=5, pages=2, start=start)
    ablations.run_arm("full", 0, arguments)
    weights = calls[0][calls[0].index("MODEL.WEIGHTS") + 1]
    assert list(torch.load(weights, weights_only=True)["model"]) == ["mask_decoder.weight"]
