"""Best checkpoint by a metric: which evaluation is kept, resuming, other checkpoints."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import signal
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hipie.checkpoint import Checkpointer, read_state
from hipie.checkpoint.error import CheckpointError
from hipie.engine.hooks import BestCheckpointer
from tests.limits import call_limited
from tests.toy_trainer import StopAt, ToyTrainer, run

METRIC = "toy_val/segm/AP"
# AP of the evaluations after 4, 8, 12, 16 and 20 iterations.
VALUES = {4: 10.0, 8: 30.0, 12: 20.0, 16: float("nan"), 20: 25.0}


class Scored(ToyTrainer):
    """Trainer whose evaluations have the values above."""

    values = VALUES
    evaluated: list[int]

    @classmethod
    def build_checkpointer(cls, cfg, model, **checkpointables):
        return Checkpointer(model, cfg.OUTPUT_DIR, **checkpointables)

    def build_hooks(self):
        type(self).current = self  # `test` is a class method
        return super().build_hooks()

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        steps = min(cls.current.iter + 1, cls.current.max_iter)
        return {"toy_val": {"segm": {"AP": cls.values[steps], "AP50": 50.0}}}


OPTIONS = (
    *("TEST.EVAL_PERIOD", 4, "SOLVER.CHECKPOINT_PERIOD", 5, "SOLVER.MAX_CHECKPOINTS", 1),
    *("DATASETS.TEST", ("toy_val",), "TEST.BEST_CHECKPOINT_METRIC", METRIC),
)


def best(folder: Path) -> tuple[int, float]:
    """Iterations that the best checkpoint was trained for, and its value."""
    content = torch.load(folder / "model_best.pth", weights_only=True)
    assert content["best_metric"] == METRIC
    assert {"model", "trainer"} <= content.keys()
    return content["iteration"] + 1, content["best_value"]


def interrupted(make_trainer, iteration: int, kind=Scored, **arguments):
    trainer = make_trainer(*OPTIONS, kind=kind)
    trainer.register_hooks([StopAt(iteration, signal.SIGTERM)])
    with pytest.raises(SystemExit):
        run(trainer, **arguments)


def test_best_of_all_evaluations_is_kept_whatever_the_limit(make_trainer, tmp_path):
    weights = {}

    class Recorded(Scored):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            steps = cls.current.iter + 1
            weights[steps] = {k: v.clone() for k, v in model.state_dict().items()}
            return super().test(cfg, model, evaluators)

    run(make_trainer(*OPTIONS, kind=Recorded))
    assert best(tmp_path) == (8, 30.0)
    saved = torch.load(tmp_path / "model_best.pth", weights_only=True)["model"]
    assert all(torch.equal(saved[name], value) for name, value in weights[8].items())
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    names = sorted(path.name for path in tmp_path.glob("model_*.pth"))
    assert names == ["model_0000019.pth", "model_best.pth", "model_final.pth"]


def test_averaged_weights_of_the_best_evaluation_are_beside_it(make_trainer, tmp_path):
    evaluated, trained = {}, {}

    class Recorded(Scored):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            evaluated[cls.current.iter + 1] = copy.deepcopy(model.state_dict())
            return super().test(cfg, model, evaluators)

        def after_step(self):
            trained[self.iter + 1] = copy.deepcopy(self.model.state_dict())
            super().after_step()

    options = (*OPTIONS, "MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 0.9)
    run(make_trainer(*options, kind=Recorded))
    assert best(tmp_path) == (8, 30.0)
    averaged = read_state(tmp_path / "model_best_ema.pth")["model"]
    saved = read_state(tmp_path / "model_best.pth")["model"]
    assert averaged.keys() == saved.keys() == evaluated[8].keys()
    for name, value in averaged.items():
        assert torch.equal(value, evaluated[8][name])
        assert torch.equal(saved[name], trained[8][name])
    assert any(not torch.equal(averaged[name], saved[name]) for name in saved)


def test_there_are_no_averaged_weights_without_an_average(make_trainer, tmp_path):
    run(make_trainer(*OPTIONS, kind=Scored))
    assert not (tmp_path / "model_best_ema.pth").exists()


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        (VALUES, "min", (4, 10.0)),
        ({**VALUES, 20: 31.0}, "max", (21, 31.0)),  # evaluated after the last iteration
        ({**VALUES, 4: float("nan"), 8: float("nan")}, "max", (20, 25.0)),
    ],
)
def test_mode_last_evaluation_and_nan(make_trainer, tmp_path, values, mode, expected):
    kind = type("Other", (Scored,), {"values": values})
    run(make_trainer(*OPTIONS, "TEST.BEST_CHECKPOINT_MODE", mode, kind=kind))
    steps, value = best(tmp_path)
    assert value == expected[1]
    assert steps in (expected[0], expected[0] + 1)  # the last one is saved after the loop


@pytest.mark.parametrize("stop", [5, 9, 13])
def test_resumed_run_replaces_it_only_by_a_better_one(make_trainer, tmp_path, stop):
    interrupted(make_trainer, stop)
    assert best(tmp_path) == ((4, 10.0) if stop < 8 else (8, 30.0))
    assert (tmp_path / "last_checkpoint").read_text() == f"model_{stop:07d}.pth"
    run(make_trainer(*OPTIONS, kind=Scored), resume=True)
    assert best(tmp_path) == (8, 30.0)


def test_new_run_in_the_same_folder_starts_anew(make_trainer, tmp_path):
    run(make_trainer(*OPTIONS, kind=Scored))
    lower = type("Lower", (Scored,), {"values": dict.fromkeys(VALUES, 1.0)})
    run(make_trainer(*OPTIONS, kind=lower))
    assert best(tmp_path) == (4, 1.0)


def test_resumed_run_with_another_metric_starts_anew(make_trainer, tmp_path):
    interrupted(make_trainer, 9)
    run(
        make_trainer(*OPTIONS, "TEST.BEST_CHECKPOINT_METRIC", "toy_val/segm/AP50", kind=Scored),
        resume=True,
    )
    content = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert (content["best_metric"], content["best_value"]) == ("toy_val/segm/AP50", 50.0)
    assert content["iteration"] == 11


def test_training_can_go_on_from_the_best_checkpoint(make_trainer, tmp_path):
    run(make_trainer(*OPTIONS, kind=Scored))
    (tmp_path / "last_checkpoint").write_text("model_best.pth")
    trainer = make_trainer(*OPTIONS, kind=Scored)
    trainer.resume_or_load(True)
    assert trainer.start_iter == 8
    assert trainer._trainer.optimizer.state_dict()["state"]


def test_unknown_metric_is_a_warning_with_similar_names(make_trainer, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    run(make_trainer(*OPTIONS, "TEST.BEST_CHECKPOINT_METRIC", "toy_val/segm/AP5", kind=Scored))
    assert not (tmp_path / "model_best.pth").exists()
    assert "TEST.BEST_CHECKPOINT_METRIC toy_val/segm/AP5 is not among the results" in caplog.text
    assert "toy_val/segm/AP50" in caplog.text


def test_damaged_best_checkpoint_is_named(make_trainer, tmp_path):
    interrupted(make_trainer, 9)
    (tmp_path / "model_best.pth").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="model_best.pth cannot be read"):
        run(make_trainer(*OPTIONS, kind=Scored), resume=True)


class Code:
    """Object whose pickle makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize(
    ("kind", "expected"), [("code", "posix.mkdir"), ("deep tuples", "deep"), ("legacy", "zip")]
)
def test_best_checkpoint_is_scanned_before_pytorch_reads_it(tmp_path, kind, expected):
    """PyTorch's reader would end the process on the deep tuple."""
    pickles = {
        "code": pickle.dumps(Code(tmp_path / "ran"), 2),
        "deep tuples": b"\x80\x02})" + b"\x85" * 150_000 + b"Ns.",
    }
    if kind in pickles:
        with zipfile.ZipFile(tmp_path / "model_best.pth", "w") as archive:
            archive.writestr("x/data.pkl", pickles[kind])
    else:
        torch.save({"a": 1}, tmp_path / "model_best.pth", _use_new_zipfile_serialization=False)
    hook = BestCheckpointer(0, SimpleNamespace(save_dir=str(tmp_path)), METRIC)
    hook.trainer = SimpleNamespace(start_iter=3)
    outcome = call_limited(hook.before_train)
    assert outcome.startswith(f"CheckpointError: {tmp_path}/model_best.pth cannot be read: ")
    assert expected in outcome and not (tmp_path / "ran").exists()
