"""Curves of losses and metrics: reading metrics.json, panels, drawing at every evaluation."""

from __future__ import annotations

import json

import numpy as np
from matplotlib import colors
from PIL import Image

from hipie.engine import curves
from hipie.engine.curves import CurveWriter, MetricHistory, draw, panels
from tests.toy_trainer import ToyTrainer, run


def write_lines(path, *lines: dict | str) -> None:
    with path.open("a") as stream:
        for line in lines:
            stream.write(line if isinstance(line, str) else json.dumps(line) + "\n")


def test_lines_are_read_once_and_half_a_line_later(tmp_path):
    path = tmp_path / "metrics.json"
    history = MetricHistory(path)
    history.update()
    assert history.curves == {}
    write_lines(path, {"iteration": 19, "total_loss": 3.0, "lr": 0.1}, '{"iteration": 39, "to')
    history.update()
    assert history.curves["total_loss"] == {19: 3.0}
    write_lines(path, 'tal_loss": 2.0}\n', "no JSON\n", {"iteration": 59, "total_loss": 1.0})
    history.update()
    assert history.curves["total_loss"] == {19: 3.0, 39: 2.0, 59: 1.0}
    assert history.curves["lr"] == {19: 0.1}


def test_a_resumed_run_replaces_values_that_are_no_longer_its_own(tmp_path):
    path = tmp_path / "metrics.json"
    write_lines(
        path,
        {"iteration": 19, "total_loss": 5.0, "losses/stuff_ce": 1.0},
        {"iteration": 20, "toy/segm/AP": 10.0},
        {"iteration": 39, "total_loss": 4.0, "losses/stuff_ce": 2.0},
        {"iteration": 59, "total_loss": 3.0, "losses/denoising": 2.0},
        {"iteration": 60, "toy/segm/AP": 20.0, "toy/segm/AP50": float("nan")},
        # resumed from a checkpoint after iteration 30; terms of one write are not in order
        {"iteration": 39, "total_loss": 4.5},
        {"iteration": 37, "losses/stuff_ce": 2.5},
        {"iteration": 59, "total_loss": 2.5},
    )
    history = MetricHistory(path)
    history.update()
    assert history.curves["total_loss"] == {19: 5.0, 39: 4.5, 59: 2.5}
    assert history.curves["losses/stuff_ce"] == {19: 1.0, 37: 2.5}
    assert history.curves["toy/segm/AP"] == {20: 10.0}
    assert history.curves["losses/denoising"] == {}


def test_panels_are_losses_by_branch_then_tasks_without_single_classes():
    curve = {1: 1.0}
    names = [
        *("lr", "loss_ce", "total_loss", "losses/things_box", "losses/things_ce", "time"),
        *("losses/denoising", "coco/bbox/AP", "coco/bbox/AP-car", "coco/segm/AP"),
        *(f"pano/panoptic_seg/{kind}{part}" for kind in ("PQ", "RQ", "SQ") for part in ("", "_st")),
        *("pano/panoptic_seg/PQ_th", "pano/panoptic_seg/SQ_th"),
    ]
    by_title = panels(dict.fromkeys(names, curve) | {"losses/stuff_ce": {}})
    assert {title: list(panel) for title, panel in by_title.items()} == {
        "total loss": ["total"],
        "loss of denoising": ["denoising"],
        "loss of things": ["box", "ce"],
        "coco/bbox": ["AP"],
        "coco/segm": ["AP"],
        "pano/panoptic_seg": ["PQ", "RQ", "SQ", "PQ_st", "PQ_th", "RQ_st"],
    }
    assert draw({}) is None


def test_lines_of_a_panel_have_the_values_of_the_curves():
    figure = draw(
        {"total_loss": {0: 80.0, 20: 2.0}, "toy/segm/AP": {20: 1.0}, "toy/segm/AP50": {20: 2.0}},
        best_metric="toy/segm/AP50",
    )
    loss, metrics = figure.axes
    (line,) = loss.lines
    assert line.get_xydata().tolist() == [[0, 80], [20, 2]]
    assert loss.get_yscale() == "log"
    assert metrics.get_title() == "toy/segm" and metrics.get_yscale() == "linear"
    first, best = metrics.lines
    assert (first.get_label(), best.get_label()) == ("AP", "AP50")
    assert best.get_linewidth() > first.get_linewidth()
    assert [text.get_text() for text in metrics.get_legend().get_texts()] == ["AP", "AP50"]


def test_curves_are_drawn_at_every_evaluation_and_at_the_end(make_trainer, tmp_path, monkeypatch):
    drawn = []

    class Evaluated(ToyTrainer):
        def build_hooks(self):
            type(self).current = self
            return super().build_hooks()

        @classmethod
        def test(cls, cfg, model, evaluators=None):
            return {"toy": {"segm": {"AP": float(cls.current.iter)}}}

    original = curves.draw

    def record(values, best_metric=""):
        drawn.append({name: dict(curve) for name, curve in values.items()})
        return original(values, best_metric)

    monkeypatch.setattr(curves, "draw", record)
    run(make_trainer("TEST.EVAL_PERIOD", 7, kind=Evaluated))
    path = tmp_path / "curves.png"
    image = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    color = (np.array(colors.to_rgb("tab:blue")) * 255).round()  # the first curve of a panel
    assert (np.abs(image - color).max(1) < 3).sum() > 100
    evaluations = [values["toy/segm/AP"] for values in drawn]
    assert evaluations[0] == {6: 6.0}
    assert evaluations[1] == {6: 6.0, 13: 13.0}
    assert evaluations[-1] == {6: 6.0, 13: 13.0, 20: 20.0}
    assert list(drawn[0]["total_loss"]) == [6]
    assert {"losses/things_ce", "losses/stuff_mask"} <= drawn[0].keys()
    # A resumed run draws the curves of the interrupted one, too.
    run(make_trainer("TEST.EVAL_PERIOD", 7, "SOLVER.MAX_ITER", 26, kind=Evaluated), resume=True)
    assert list(drawn[-1]["toy/segm/AP"]) == [6, 13, 20, 26]
    assert drawn[-1]["total_loss"].keys() >= {6, 13, 19, 20, 25}


def test_training_without_test_sets_has_loss_curves(make_trainer, tmp_path):
    class Untested(ToyTrainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            return {}

    run(make_trainer(kind=Untested))
    assert Image.open(tmp_path / "curves.png").format == "PNG"


def test_curves_that_cannot_be_written_end_no_training(tmp_path, caplog):
    write_lines(tmp_path / "metrics.json", {"iteration": 1, "total_loss": 1.0})
    writer = CurveWriter(tmp_path)
    writer.path = tmp_path / "metrics.json/curves.png"
    writer.close()
    assert "No curves" in caplog.text
