"""Progress line of training: groups of loss terms and remaining time."""

from __future__ import annotations

import logging

import pytest
from detectron2.utils.events import EventStorage

from hipie.engine.event_writers import ProgressPrinter, group_sums, loss_group, recent_mean
from hipie.modeling.criterion.losses import LOSS_REGISTRY, LossTerm

LOGGER = "hipie.engine.event_writers"


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("loss_ce", ("things", "ce")),
        ("loss_boxiou_1", ("things", "box")),
        ("loss_giou_enc", ("things", "box")),
        ("loss_mask_0", ("things", "mask")),
        ("loss_dice_maskdino", ("stuff", "mask")),
        ("loss_ce_interm_maskdino", ("stuff", "ce")),
        ("loss_bbox_3_maskdino", ("stuff", "box")),
        ("loss_ce_dn_maskdino", ("denoising", "")),
        ("loss_mask_dn_2_maskdino", ("denoising", "")),
        ("total_loss", None),
        ("loss_center", None),
        ("lr", None),
    ],
)
def test_groups_of_loss_terms(term, expected):
    assert loss_group(term) == expected


def test_every_registered_term_has_its_declared_group():
    terms = [term for _, term in LOSS_REGISTRY]
    assert len(terms) >= 6
    for term in terms:
        assert loss_group(f"loss_{term.name}_0") == ("things", term.group)
        assert loss_group(f"loss_{term.name}_maskdino") == ("stuff", term.group)


def test_a_term_from_outside_has_its_group(monkeypatch):
    term = LossTerm("center_x", "CENTER", "box", lambda matched: None)
    monkeypatch.setitem(LOSS_REGISTRY._obj_map, "center_x_loss", term)
    assert loss_group("loss_center_x_2_maskdino") == ("stuff", "box")
    assert loss_group("loss_center") is None


def test_line_sums_groups_and_estimates_the_time_left(caplog):
    caplog.set_level(logging.INFO, LOGGER)
    with EventStorage(0) as storage:
        for i in range(4):
            storage.iter = i
            storage.put_scalars(
                total_loss=10.0 + i, loss_ce=1.0, loss_bbox=2.0, loss_giou_1=3.0, data_time=0.5
            )
            storage.put_scalars(loss_mask_maskdino=4.0 + i, loss_ce_dn_maskdino=6.0)
            storage.put_scalars(time=2.0, lr=1e-3)
        ProgressPrinter(10).write()
        assert storage.history("eta_seconds").latest() == pytest.approx(12.0)
    (line,) = caplog.messages
    assert line == (
        "4/10  0:00:12 left  loss 11.5  things box 5 ce 1  stuff mask 5.5  denoising 6  lr 0.001  "
        "2 s a step (data 0.5 s)"
    )


def test_old_and_missing_scalars_do_not_count():
    with EventStorage(0) as storage:
        storage.put_scalar("loss_ce", 100.0)
        for i in range(1, 40):
            storage.iter = i
            storage.put_scalar("loss_mask", 1.0)
        assert recent_mean(storage, "loss_ce") is None
        assert recent_mean(storage, "no such thing") is None
        assert group_sums(storage) == ["things mask 1"]


def test_time_left_is_estimated_from_the_clock_without_step_times(caplog, monkeypatch):
    caplog.set_level(logging.INFO, LOGGER)
    clock = iter([100.0, 106.0])
    monkeypatch.setattr("hipie.engine.event_writers.time.perf_counter", lambda: next(clock))
    printer = ProgressPrinter(8)
    with EventStorage(0) as storage:
        storage.iter = 1
        printer.write()
        storage.iter = 4
        printer.write()
        storage.iter = 8
        printer.write()
    assert caplog.messages == ["2/8", "5/8  0:00:06 left"]
