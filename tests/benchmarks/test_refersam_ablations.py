"""The arms of ReferSAM's ablations are real options, and its table says what was measured."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

pytest.importorskip("refersam")

from benchmarks import refersam_ablations as ablations
from hipie import model_zoo


@pytest.mark.parametrize("arm", ablations.ARMS)
def test_every_arm_is_options_of_the_configuration(arm: str) -> None:
    file = str(ablations.arms.ROOT / ablations.CONFIGURATION)
    plain = model_zoo.get_config(file)
    assert (model_zoo.get_config(file, ablations.ARMS[arm]).dump() == plain.dump()) == (
        arm == "full"
    )
    assert plain.DATASETS.TEST == (ablations.PAGES,)


def test_shuffling_deals_every_expression_of_the_first_pages_once() -> None:
    batches = [[{"image_id": 1, "expressions": list("abc")}], [{"image_id": 2, "expressions": []}]]
    batches += [[{"image_id": 3, "expressions": list("defghij")}]]
    batches += [[{"image_id": 4, "expressions": ["never"]}]]
    plain = ablations.FirstPages(batches, 3)
    assert len(plain) == 3 and list(plain) == batches[:3]
    shuffled = ablations.FirstPages(batches, 3, seed=0)
    found = [item for batch in shuffled for item in batch]
    assert [item["image_id"] for item in found] == [1, 2, 3]
    assert [len(item["expressions"]) for item in found] == [3, 0, 7]
    dealt = [one for item in found for one in item["expressions"]]
    assert sorted(dealt) == list("abcdefghij") != dealt
    assert dealt == [one for batch in shuffled for item in batch for one in item["expressions"]]
    assert len(ablations.FirstPages(batches, 9)) == 4


def options(folder, **more) -> argparse.Namespace:
    plain = {
        "steps": 9,
        "seeds": [0, 1],
        "arms": list(ablations.ARMS)[:3],
        "start": None,
        "opts": [],
    }
    return argparse.Namespace(**{**plain, "output": folder, **more})


def write(folder, arm: str, seed: int, value: float) -> None:
    place = ablations.folder(arm, seed, options(folder))
    place.mkdir()
    figures = dict.fromkeys(ablations.FIGURES, value)
    (place / "figures.json").write_text(json.dumps(figures))


def test_the_table_is_of_what_arms_left_behind(tmp_path) -> None:
    write(tmp_path, "full", 0, 40.0)
    write(tmp_path, "full", 1, 50.0)
    *_, full, none, _ = ablations.table(options(tmp_path)).splitlines()
    assert full == "| full | 45.0 ± 5.0 | 45.0 ± 5.0 | 45.0 ± 5.0 |"
    assert none.startswith("| no interactor | not trained yet |")


def test_an_arm_with_figures_is_left_alone(tmp_path, monkeypatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(ablations.arms, "call", lambda command, threads: calls.append(command))
    write(tmp_path, "full", 0, 40.0)
    asked = options(tmp_path, threads=1, train_pages=5, pages=2)
    ablations.run_arm("full", 0, asked)
    assert not calls
    (ablations.folder("full", 1, asked)).mkdir()
    ablations.run_arm("full", 1, asked)
    training, judging = calls
    assert "--resume" in training and training[training.index("SEED") + 1] == "1"
    assert "--judge" in judging
    (ablations.folder("full", 1, asked) / "model_final.pth").write_bytes(b"")
    ablations.run_arm("full", 1, asked)
    assert len(calls) == 3 and "--judge" in calls[2]


def test_arms_start_from_the_sam_of_a_model_and_from_nothing_else_of_it(
    tmp_path, monkeypatch
) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(ablations.arms, "call", lambda command, threads: calls.append(command))
    tensors = {f"{part}.weight": torch.ones(1) for part in ("mask_decoder", "interactor")}
    torch.save({"model": tensors}, tmp_path / "trained.pth")
    start = str(tmp_path / "trained.pth")
    asked = options(tmp_path, threads=1, train_pages=5, pages=2, start=start)
    ablations.run_arm("full", 0, asked)
    weights = calls[0][calls[0].index("MODEL.WEIGHTS") + 1]
    assert list(torch.load(weights, weights_only=True)["model"]) == ["mask_decoder.weight"]
