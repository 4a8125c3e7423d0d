"""Comparison with fixed-class networks: schedule, training, evaluation's input and table."""

from __future__ import annotations

import argparse
import json
from itertools import count

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import photographs
from hipie.evaluation.metrics.background import BackgroundThresholds, best_named_class


def test_rate_warms_up_and_ends_at_zero() -> None:
    rates = [photographs.learning_rate(used, 1000) for used in range(0, 1001, 10)]
    peak = int(np.argmax(rates))
    assert 0 < rates[0] < 0.25 and rates[-1] == 0 and 4 <= peak <= 6
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert photographs.learning_rate(500, 1000) == pytest.approx(0.5**0.9)
    assert photographs.learning_rate(2000, 1000) == 0


def test_time_of_a_step_has_no_start_or_end() -> None:
    assert photographs.seconds_a_step((8, 24), (30 + 8 * 1.5, 30 + 24 * 1.5)) == pytest.approx(1.5)


def test_evaluator_predicts_the_best_of_all_classes_with_background() -> None:
    """The evaluator's labels are the argmax over all classes, whatever the background's index."""
    scores = torch.randn(5, 9, 7, generator=torch.Generator().manual_seed(0))
    for background in range(5):
        named, best = best_named_class(photographs.named_scores(scores, background))
        labels = BackgroundThresholds(5, background, 0.5).labels(named, best)
        np.testing.assert_array_equal(labels, scores.argmax(0).numpy())
    assert (photographs.named_scores(scores, None).argmax(0) == scores.argmax(0)).all()


def test_mean_over_six_classes_of_voc() -> None:
    ious = {f"IoU-{name}": 10.0 * i for i, name in enumerate(photographs.VOC_CLASSES)}
    results = {"sem_seg": {**ious, "IoU-sofa": 99.0, "mIoU": 3.0}}
    assert photographs.SETS["voc"].score(results) == pytest.approx(25)


class Line(nn.Module):
    """y = w x, with Detectron2's interface."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, batch):
        return {"squares": torch.stack([(self.weight @ x - y) ** 2 for x, y in batch]).mean()}


class Points:
    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.steps = limit, []

    def batch(self, step: int):
        if step == self.limit:
            raise KeyboardInterrupt
        self.steps.append(step)
        generator = torch.Generator().manual_seed(step)
        points = torch.randn(8, 3, generator=generator)
        return [(x, x @ torch.tensor([1.0, -2.0, 3.0])) for x in points]


def test_interrupted_training_continues(tmp_path, monkeypatch, tiny_cfg) -> None:
    """Every step takes half a second of CPU time."""
    clock = count(0, 0.5)
    monkeypatch.setattr(photographs.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(photographs, "SECONDS_BETWEEN_CHECKPOINTS", 5.0)
    options = argparse.Namespace(minutes=1.0, rate=0.1, seed=0)

    def run(folder, images):
        model = Line()
        return photographs.train(model, images, options, tiny_cfg, tmp_path / folder), model

    whole, expected = run("whole", Points())
    assert whole["last_loss"] < 0.3 * whole["first_loss"]
    assert whole["steps"] == pytest.approx(60 * whole["core_minutes"] / 0.5)
    with pytest.raises(KeyboardInterrupt):
        run("parts", Points(limit=33))
    images = Points()
    resumed, model = run("parts", images)
    assert 20 < images.steps[0] <= 33
    assert resumed == pytest.approx(whole)
    torch.testing.assert_close(model.weight, expected.weight)


def test_rates_of_backbone_and_norms() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    groups = photographs.optimizer_of(model, 1.0, 0.25).param_groups
    found = [(g["lr"], g["weight_decay"]) for g in groups]
    assert found == [(0.25, 0.05), (0.25, 0.0), (1.0, 0.05), (1.0, 0.0)]


@pytest.mark.parametrize("model", ["lraspp", "deeplabv3"])
def test_semantic_networks_train_and_predict_at_the_size_of_the_image(model, tiny_cfg) -> None:
    tiny_cfg.MODEL.TIMM.NAME, tiny_cfg.MODEL.TIMM.WEIGHTS = "tf_efficientnet_lite0", ""
    tiny_cfg.MODEL.BACKBONE.FREEZE_AT = 2
    network = photographs.semantic_network(model, tiny_cfg, 4)
    size = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "height": 50, "width": 40}
    labels = torch.full((64, 64), photographs.IGNORE_LABEL)
    labels[:8] = 3
    inputs = [{**size, "labels": labels}] * 2
    network(inputs)["cross_entropy"].backward()
    frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
    assert any("conv_stem" in name for name in frozen)
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    network.eval()
    assert network(inputs[:1])[0]["sem_seg"].shape == (4, 50, 40)


def test_table_and_files(tmp_path, capsys) -> None:
    options = ["--table", "--minutes", "2", "--output", str(tmp_path), "--sets", "voc", "camvid"]
    folder = tmp_path / "voc-lraspp-lite2-2min"
    folder.mkdir()
    row = {"steps": 9, "core_minutes": 2.04, "first_loss": 3.0, "last_loss": 1.5, "score": 61.26}
    (folder / "row.json").write_text(json.dumps({**row, "results": {}}))
    joint = tmp_path / "results.json"
    joint.write_text(json.dumps({"photos_camvid_val": {"sem_seg": {"mIoU": 58.04}}}))
    photographs.main([*options, "--joint", str(joint)])
    *_, first, second = capsys.readouterr().out.splitlines()
    assert first == ("| voc | mean IoU of six classes | lraspp | 2.0 | 9 | 3.00, 1.50 | 61.3 |")
    assert second == "| camvid | mIoU | hipie_joint | all sets jointly |  |  | 58.0 |"
    written = json.loads((tmp_path / "table.json").read_text())
    assert written[0] == {
        "set": "voc",
        "metric": "mean IoU of six classes",
        "model": "lraspp",
        **row,
    }
    assert (tmp_path / "table.md").read_text().endswith(f"{first}\n{second}\n")
