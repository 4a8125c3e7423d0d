"""The progress line: which terms it adds up, and what it says."""

from __future__ import annotations

import logging

import pytest
from detectron2.utils.events import EventStorage

from hipie.engine.event_writers import ProgressPrinter, family, family_sums, recent_mean

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
def test_families_of_terms(term, expected):
    assert family(term) == expected


def test_every_term_of_the_criteria_has_a_family(make_batch, make_stuff_batch):
    from hipie.modeling.criterion.stuff_criterion import StuffCriterion
    from hipie.modeling.criterion.thing_criterion import ThingCriterion

    things = make_batch([[True, True]])
    stuff = make_stuff_batch([[True, False]])
    losses = things.run(ThingCriterion(16, supervise_last_iou=True))
    assert {family(term)[0] for term in losses} == {"things"}
    losses = stuff.run(StuffCriterion(16))
    assert {family(term)[0] for term in losses} == {"stuff", "denoising"}


def test_the_line_adds_up_and_says_how_long(caplog):
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


def test_old_numbers_and_absent_ones_do_not_count():
    with EventStorage(0) as storage:
        storage.put_scalar("loss_ce", 100.0)
        for i in range(1, 40):
            storage.iter = i
            storage.put_scalar("loss_mask", 1.0)
        assert recent_mean(storage, "loss_ce") is None
        assert recent_mean(storage, "no such thing") is None
        assert family_sums(storage) == ["things mask 1"]


def test_without_recorded_times_the_clock_decides(caplog, monkeypatch):
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
