"""Trainers of a small model, and signals as in a terminal."""

from __future__ import annotations

import signal

import pytest
from detectron2.config import get_cfg

from hipie.config import add_hipie_config
from tests.toy_trainer import ToyTrainer


@pytest.fixture(autouse=True)
def _default_interrupt_handler():
    """Handle SIGINT as in a terminal; shells start background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def make_trainer(tmp_path):
    """`make_trainer(KEY, VALUE, ...)`: a new trainer in the same folder."""

    def make(*options, kind=ToyTrainer):
        cfg = get_cfg()
        add_hipie_config(cfg)
        cfg.OUTPUT_DIR = str(tmp_path)
        cfg.MODEL.DEVICE = "cpu"
        cfg.merge_from_list(["SOLVER.MAX_ITER", 20, "SOLVER.STEPS", (14,), *options])
        return kind(cfg)

    return make
