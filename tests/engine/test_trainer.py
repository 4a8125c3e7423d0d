"""Trainer on a model of two layers: steps, signals, resuming, precision."""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from detectron2.engine import hooks
from torch import nn

from hipie.engine import trainer as trainer_module
from hipie.engine.hooks import CheckpointOnSignal, DivergedError
from hipie.engine.trainer import Trainer, step_seed, wrap_for_processes
from hipie.errors import InputError
from tests.toy_trainer import StopAt, Toy, ToyTrainer, run


def trainer_state(trainer: Trainer) -> dict:
    """Weights, moments and learning rates of the optimizer, and the schedule."""
    optimizer = trainer._trainer.optimizer
    return {
        "weights": {k: v.clone() for k, v in trainer._trainer.model.state_dict().items()},
        "moments": [
            {k: v.clone() for k, v in optimizer.state[p].items()}
            for group in optimizer.param_groups
            for p in group["params"]
        ],
        "rates": [group["lr"] for group in optimizer.param_groups],
        "schedule": trainer.scheduler.last_epoch,
    }


def assert_equal_states(first: dict, second: dict) -> None:
    assert first["rates"] == second["rates"]
    assert first["schedule"] == second["schedule"]
    for key, value in first["weights"].items():
        assert torch.equal(value, second["weights"][key]), key
    for one, other in zip(first["moments"], second["moments"], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def assert_equal_weights(first: dict, second: dict) -> None:
    """Compare weights and moments, not the schedule, which goes on in skipped steps."""
    schedule = {"rates": [], "schedule": 0}
    assert_equal_states({**first, **schedule}, {**second, **schedule})


def test_resumed_run_equals_uninterrupted_run(make_trainer, tmp_path):
    uninterrupted = trainer_state(run(make_trainer()))
    for file in tmp_path.glob("*.pth"):
        file.unlink()
    (tmp_path / "last_checkpoint").unlink()
    first = make_trainer("SOLVER.CHECKPOINT_PERIOD", 10)
    first.register_hooks([StopAt(9, signal.SIGTERM)])
    with pytest.raises(SystemExit):
        run(first)
    second = run(make_trainer(), resume=True)
    assert second.start_iter == 10
    assert second.drawn[:10] == list(range(10, 20))
    assert_equal_states(uninterrupted, trainer_state(second))


@pytest.fixture
def heard_sighup():
    """SIGHUP with its default effect, also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard_sighup")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_saves_a_checkpoint_after_the_step_and_exits(make_trainer, tmp_path, caplog, number):
    caplog.set_level(logging.WARNING)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    trainer = make_trainer()
    trainer.register_hooks([StopAt(3, number)])
    with pytest.raises(SystemExit) as ended:
        run(trainer)
    assert ended.value.code == 128 + number
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert f"{signal.Signals(number).name} after iteration 3" in caplog.text
    assert {n: signal.getsignal(n) for n in before} == before
    again = make_trainer()
    again.resume_or_load(True)
    assert again.start_iter == 4
    assert all(
        torch.equal(value, trainer._trainer.model.state_dict()[key])
        for key, value in again._trainer.model.state_dict().items()
    )


def test_second_interrupt_exits_at_once(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.register_hooks([StopAt(2, signal.SIGINT, times=2)])
    with pytest.raises(KeyboardInterrupt):
        run(trainer)
    assert not list(tmp_path.glob("model_*.pth"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def resumed(make_trainer, *options) -> Trainer:
    """Resume a run of 5 iterations with other keys, and go on to the 8th."""
    run(make_trainer("SOLVER.MAX_ITER", 5))
    return run(make_trainer("SOLVER.MAX_ITER", 8, *options), resume=True)


@pytest.mark.parametrize("name", ["ADAMW", "SGD"])
def test_resumed_run_has_the_hyperparameters_of_its_keys(make_trainer, caplog, name):
    caplog.set_level(logging.WARNING)
    keys = ("SOLVER.OPTIMIZER", name, "SOLVER.WARMUP_ITERS", 0)
    run(make_trainer("SOLVER.MAX_ITER", 5, *keys))
    changed = ("SOLVER.BASE_LR", 3e-3, "SOLVER.WEIGHT_DECAY", 0.5)
    trainer = make_trainer("SOLVER.MAX_ITER", 8, *keys, *changed)
    rates = {}  # PyTorch may call the hook of a derived optimizer twice a step.
    trainer._trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.update({trainer.iter: optimizer.param_groups[0]["lr"]})
    )
    run(trainer, resume=True)
    assert rates == dict.fromkeys((5, 6, 7), 3e-3)
    assert {group["weight_decay"] for group in trainer._trainer.optimizer.param_groups} == {0.5}
    assert "base learning rate 0.0001 -> 0.003" in caplog.text
    assert "weight_decay 0.01 -> 0.5" in caplog.text


def test_unchanged_keys_are_not_reported(make_trainer, caplog):
    caplog.set_level(logging.WARNING)
    resumed(make_trainer)
    assert "goes on with" not in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("SOLVER.OPTIMIZER", "SGD"), "SOLVER.OPTIMIZER differs"),
        (("MODEL.FREEZE", ("first.*",)), "4 parameters were trained in it, and 2 are now"),
        (("SOLVER.BIAS_LR_FACTOR", 2.0), "distributed in another way"),
    ],
)
def test_optimizer_state_of_other_parameters_is_refused(make_trainer, options, message):
    class Safe(ToyTrainer):
        build_checkpointer = Trainer.build_checkpointer

    run(make_trainer("SOLVER.MAX_ITER", 5, kind=Safe))
    with pytest.raises(InputError, match=message):
        make_trainer("SOLVER.MAX_ITER", 8, *options, kind=Safe).resume_or_load(True)


def test_ignored_sighup_stays_ignored(make_trainer):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer = make_trainer("SOLVER.MAX_ITER", 5)
        trainer.register_hooks([StopAt(2, signal.SIGHUP)])
        run(trainer)
        assert trainer.iter == 5
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


class StoppedEvaluation(ToyTrainer):
    """Trainer that gets a signal in an evaluation, which would take long."""

    after_signal: ClassVar[list[str]] = []

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        cls.after_signal.append("reached")
        return {}


@pytest.mark.parametrize("max_iter", [20, 4], ids=["periodic", "final"])
def test_signal_ends_an_evaluation(make_trainer, tmp_path, max_iter):
    trainer = make_trainer(
        *("TEST.EVAL_PERIOD", 4, "SOLVER.MAX_ITER", max_iter), kind=StoppedEvaluation
    )
    with pytest.raises(SystemExit) as ended:
        run(trainer)
    assert ended.value.code == 128 + signal.SIGTERM
    assert StoppedEvaluation.after_signal == []
    assert torch.load(tmp_path / (tmp_path / "last_checkpoint").read_text())["iteration"] == 3


def _wait_for_signals(ready) -> None:
    ready.set()
    while True:
        time.sleep(0.05)


def test_forked_processes_end_by_their_parent_only(make_trainer):
    """Evaluators fork pools and end them with SIGTERM; a group's signal is not for them."""
    hook = CheckpointOnSignal(None)
    hook.before_train()
    try:
        context = multiprocessing.get_context("fork")
        ready = context.Event()
        child = context.Process(target=_wait_for_signals, args=(ready,))
        child.start()
        for number in ("INT", "HUP", "TERM"):  # also before the child is ready
            subprocess.run(["kill", f"-{number}", str(child.pid)], check=True)
        assert ready.wait(20)
        for number in ("INT", "HUP", "TERM"):
            subprocess.run(["kill", f"-{number}", str(child.pid)], check=True)
        child.join(0.5)
        assert child.is_alive()
        child.terminate()
        child.join(20)
        assert child.exitcode == 0
        assert not {signal.SIGTERM, signal.SIGINT} & signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        hook.after_train()
    assert hook._received is None


def test_signals_are_not_handled_off_the_main_thread(make_trainer):
    from threading import Thread

    before = signal.getsignal(signal.SIGINT)
    hook = CheckpointOnSignal(None)
    thread = Thread(target=hook.before_train)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


def test_step_seeds_are_unique():
    seeds = {step_seed(s, i, r) for s in range(3) for i in range(50) for r in range(4)}
    assert len(seeds) == 3 * 50 * 4
    assert step_seed(-1, 5, 0) == step_seed(0, 5, 0)


def test_random_numbers_of_a_step_do_not_depend_on_earlier_ones(make_trainer):
    ended = []
    for earlier in (0, 7):
        trainer = make_trainer("SOLVER.MAX_ITER", 1)
        torch.rand(earlier)
        ended.append(trainer_state(run(trainer)))
    assert_equal_states(*ended)


@pytest.mark.parametrize("enabled", [False, True])
def test_bfloat16_applies_to_activations_only(make_trainer, enabled):
    amp = ("SOLVER.AMP.ENABLED", enabled, "SOLVER.AMP.PRECISION", "bfloat16")
    trainer = run(make_trainer("SOLVER.MAX_ITER", 2, *amp))
    model = trainer._trainer.model
    assert model.hidden_dtype == (torch.bfloat16 if enabled else torch.float32)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())


def test_every_loss_and_result_is_written(make_trainer, tmp_path):
    run(make_trainer())
    lines = [json.loads(line) for line in Path(tmp_path, "metrics.json").read_text().splitlines()]
    steps = [line for line in lines if "loss_ce" in line]
    assert {"loss_ce", "loss_mask_maskdino", "total_loss", "lr", "data_time"} <= steps[-1].keys()
    written = {key: value for line in lines for key, value in line.items()}
    assert (written["panoptic_seg/PQ"], written["refer/oIoU"]) == (1.0, 2.0)
    assert list(tmp_path.glob("events.out.tfevents*"))
    assert (tmp_path / "model_final.pth").is_file()


def test_at_most_max_checkpoints_are_kept(make_trainer, tmp_path):
    run(make_trainer("SOLVER.CHECKPOINT_PERIOD", 5, "SOLVER.MAX_CHECKPOINTS", 2))
    kept = sorted(path.name for path in tmp_path.glob("model_*.pth"))
    assert kept == ["model_0000014.pth", "model_0000019.pth", "model_final.pth"]


def numbered_checkpoints(folder: Path) -> list[int]:
    """Iterations of the checkpoints in a folder."""
    return sorted(int(path.stem[6:]) for path in folder.glob("model_[0-9]*.pth"))


def test_at_most_max_checkpoints_are_kept_after_a_resume(make_trainer, tmp_path):
    limit = ("SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.MAX_CHECKPOINTS", 3)
    first = make_trainer(*limit)
    first.register_hooks([StopAt(8, signal.SIGTERM)])
    with pytest.raises(SystemExit):
        run(first)
    assert numbered_checkpoints(tmp_path) == [3, 5, 7, 8]
    second = make_trainer(*limit)
    second.register_hooks([StopAt(12, signal.SIGTERM)])
    with pytest.raises(SystemExit):
        run(second, resume=True)
    assert numbered_checkpoints(tmp_path) == [8, 9, 11, 12]
    run(make_trainer(*limit), resume=True)
    assert numbered_checkpoints(tmp_path) == [15, 17, 19]


def test_limit_of_checkpoints_leaves_files_of_other_runs(make_trainer, tmp_path):
    (tmp_path / "model_0000001.pth").write_text("weights of an earlier run")
    (tmp_path / "model_0000099.pth").write_text("weights of a longer run")
    limit = ("SOLVER.CHECKPOINT_PERIOD", 5, "SOLVER.MAX_CHECKPOINTS", 1)
    run(make_trainer(*limit))
    assert numbered_checkpoints(tmp_path) == [1, 19, 99]
    run(make_trainer(*limit, "SOLVER.MAX_ITER", 25), resume=True)
    assert numbered_checkpoints(tmp_path) == [24, 99]


class Poisoned(ToyTrainer):
    """Trainer whose batches of the iterations `poisoned` are nan."""

    poisoned: tuple[int, ...] = ()

    def build_train_loader(self, cfg, start=0):
        for index, batch in enumerate(super().build_train_loader(cfg, start), start):
            yield batch * float("nan") if index in self.poisoned else batch


def poisoned(*iterations: int) -> type[Poisoned]:
    return type("Poisoned", (Poisoned,), {"poisoned": iterations})


def states_after_steps(trainer: Trainer) -> list[dict]:
    """List that gets the state of a trainer after each of its steps."""
    states: list[dict] = []
    record = hooks.CallbackHook(after_step=lambda running: states.append(trainer_state(running)))
    trainer._hooks.insert(0, record)
    record.trainer = trainer
    return states


def test_non_finite_steps_are_skipped_and_counted(make_trainer, tmp_path, caplog):
    trainer = make_trainer("SOLVER.MAX_SKIPPED_STEPS", 2, kind=poisoned(3, 5, 6))
    states = states_after_steps(trainer)
    run(trainer)
    for iteration in (3, 5, 6):
        before, after = states[iteration - 1], states[iteration]
        assert_equal_weights(before, after)
    assert not torch.equal(
        states[6]["weights"]["first.weight"], states[7]["weights"]["first.weight"]
    )
    saved = torch.load(tmp_path / "model_final.pth")["trainer"]
    assert saved["_trainer"]["skipped_steps"] == {"total": 3, "in_a_row": 0}
    assert (
        "Skipped iteration 6, the 2. in a row: loss_ce, loss_mask_maskdino not finite"
        in caplog.text
    )
    lines = [json.loads(line) for line in Path(tmp_path, "metrics.json").read_text().splitlines()]
    assert [line["skipped_steps"] for line in lines if "skipped_steps" in line][-1] == 3


def test_too_many_skipped_steps_save_the_last_good_weights_and_stop(make_trainer, tmp_path):
    kind = poisoned(*range(4, 20))
    trainer = make_trainer("SOLVER.MAX_SKIPPED_STEPS", 2, kind=kind)
    states = states_after_steps(trainer)
    with pytest.raises(
        DivergedError, match=r"iteration 6: .* of 3 steps in a row .*model_0000006 in OUTPUT_DIR"
    ):
        run(trainer)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000006.pth"
    resumed = make_trainer("SOLVER.MAX_SKIPPED_STEPS", 2, kind=kind)
    resumed.resume_or_load(True)
    assert resumed.start_iter == 7
    assert_equal_weights(states[3], trainer_state(resumed))
    with pytest.raises(DivergedError, match="iteration 7: .* of 4 steps in a row"):
        resumed.train()


def test_a_run_fails_without_evaluation_if_its_last_half_is_skipped(make_trainer, tmp_path):
    options = ("SOLVER.MAX_ITER", 8, "SOLVER.MAX_SKIPPED_STEPS", 20, "TEST.EVAL_PERIOD", 100)
    trainer = make_trainer(*options, kind=poisoned(4, 5, 6, 7))
    trainer.test = lambda *_: pytest.fail("a failed run was evaluated")
    with pytest.raises(DivergedError, match="last 4 of 8 steps .* model_final in OUTPUT_DIR"):
        run(trainer)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_a_run_does_not_fail_if_less_is_skipped(make_trainer):
    options = ("SOLVER.MAX_ITER", 8, "SOLVER.MAX_SKIPPED_STEPS", 20)
    trainer = run(make_trainer(*options, kind=poisoned(0, 1, 2, 5, 6, 7)))
    assert trainer._trainer.skipped_in_a_row == 3


def test_resumed_run_after_a_stop_goes_on_with_finite_batches(make_trainer):
    with pytest.raises(DivergedError, match="iteration 0"):
        run(make_trainer("SOLVER.MAX_SKIPPED_STEPS", 0, kind=poisoned(0)))
    trainer = run(make_trainer("SOLVER.MAX_SKIPPED_STEPS", 0, kind=poisoned(0)), resume=True)
    assert (trainer._trainer.skipped_steps, trainer._trainer.skipped_in_a_row) == (1, 0)


def test_running_statistics_of_a_skipped_step_are_restored(make_trainer):
    class Normalized(poisoned(2)):
        @classmethod
        def build_model(cls, cfg):
            model = super().build_model(cfg)
            model.first = nn.Sequential(model.first, nn.BatchNorm1d(4))
            return model

    trainer = make_trainer("SOLVER.MAX_ITER", 4, kind=Normalized)
    states = states_after_steps(trainer)
    run(trainer)
    assert [state["weights"]["first.1.num_batches_tracked"] for state in states] == [1, 2, 2, 3]
    assert_equal_weights(states[1], states[2])


def test_non_finite_gradients_of_finite_losses_are_skipped(make_trainer):
    class Root(Toy):
        def forward(self, batch):
            return {"loss_ce": (self.second.weight * 0).abs().sqrt().sum()}

    class RootTrainer(ToyTrainer):
        @classmethod
        def build_model(cls, cfg):
            return Root()

    with pytest.raises(DivergedError, match="iteration 1: "):
        run(make_trainer("SOLVER.MAX_SKIPPED_STEPS", 1, kind=RootTrainer))


def test_data_loader_that_ends_is_an_error(make_trainer):
    class Ending(ToyTrainer):
        def build_train_loader(self, cfg, start=0):
            return itertools.islice(super().build_train_loader(cfg, start), 3)

    with pytest.raises(InputError, match="training data of process 0 ended at iteration 3"):
        run(make_trainer(kind=Ending))


class Failing(ToyTrainer):
    """Trainer whose loader fails at iteration 5 as long as `is_broken`."""

    is_broken = True

    def build_train_loader(self, cfg, start=0):
        for index, batch in enumerate(super().build_train_loader(cfg, start), start):
            if index == 5 and self.is_broken:
                raise InputError("a.png: the image is damaged")
            yield batch


def test_run_that_a_batch_ends_saves_the_last_step(make_trainer, tmp_path, caplog, monkeypatch):
    uninterrupted = trainer_state(run(make_trainer()))
    for file in tmp_path.glob("*.pth"):
        file.unlink()
    with pytest.raises(InputError, match="a.png"):
        run(make_trainer(kind=Failing))
    assert numbered_checkpoints(tmp_path) == [4]
    assert "Training ends after iteration 4: model_0000004" in caplog.text
    # It meets the same image again; no step is lost, and no other checkpoint is written.
    with pytest.raises(InputError, match="a.png"):
        run(make_trainer(kind=Failing), resume=True)
    assert numbered_checkpoints(tmp_path) == [4]
    monkeypatch.setattr(Failing, "is_broken", False)
    resumed = run(make_trainer(kind=Failing), resume=True)
    assert resumed.start_iter == 5
    assert_equal_states(uninterrupted, trainer_state(resumed))


def test_run_that_an_evaluation_ends_saves_the_last_step(make_trainer, tmp_path):
    class FailingTest(ToyTrainer):
        @classmethod
        def test(cls, cfg, model, evaluators=None):
            raise InputError("the data set cannot be evaluated")

    with pytest.raises(InputError, match="cannot be evaluated"):
        run(make_trainer("TEST.EVAL_PERIOD", 6, kind=FailingTest))
    assert numbered_checkpoints(tmp_path) == [5]
    resumed = make_trainer()
    resumed.resume_or_load(True)
    assert resumed.start_iter == 6


def test_failed_forward_pass_leaves_the_running_statistics(make_trainer, tmp_path):
    class Fragile(ToyTrainer):
        @classmethod
        def build_model(cls, cfg):
            model = super().build_model(cfg)
            model.first = nn.Sequential(model.first, nn.BatchNorm1d(4))
            model.second.register_forward_hook(cls.fail)
            return model

        calls = 0

        @classmethod
        def fail(cls, *arguments):
            cls.calls += 1
            if cls.calls == 4:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(make_trainer(kind=Fragile))
    saved = torch.load(tmp_path / "model_0000002.pth", weights_only=False)
    assert saved["model"]["first.1.num_batches_tracked"] == 3


@pytest.mark.slow
def test_processes_save_and_end_together_when_one_cannot_read_its_batch(tmp_path):
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "tests/engine/failing_loader.py", str(tmp_path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    for rank in range(2):
        assert f"BatchError in process {rank}: a.png: the image is damaged" in process.stdout
    assert numbered_checkpoints(tmp_path) == [2]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"


def test_half_changed_weights_are_not_saved(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.resume_or_load(False)

    def fail(*arguments, **options):
        raise ZeroDivisionError

    trainer._trainer.optimizer.step = fail
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert not list(tmp_path.glob("*.pth"))


def test_one_process_has_no_wrapper():
    model = Toy()
    assert wrap_for_processes(model) is model


METRICS = {
    "first": {"segm": {"AP": 1.0}, "bbox": {"AP": 2.0}},
    "second": {"segm": {"AP": 3.0}},
}


@pytest.mark.parametrize("names", [("first", "second"), ("second", "first"), ("second",)])
def test_results_have_one_shape_for_any_order_of_test_sets(
    make_trainer, monkeypatch, tmp_path, names
):
    class Evaluated(ToyTrainer):
        test = Trainer.test

        @classmethod
        def build_test_loader(cls, cfg, name):
            return name

        @classmethod
        def build_evaluator(cls, cfg, name):
            return None

    monkeypatch.setattr(
        trainer_module, "inference_on_dataset", lambda _, loader, __: METRICS[loader._loader]
    )
    trainer = make_trainer("DATASETS.TEST", names, kind=Evaluated)
    results = Trainer.test.__func__(Evaluated, trainer.cfg, Toy())
    expected = {name: METRICS[name] for name in names}
    assert results == expected
    assert json.loads((tmp_path / "results.json").read_text()) == expected
    rows = json.loads((tmp_path / "table.json").read_text())
    assert {(row["dataset"], row["task"]) for row in rows} == {
        (name, task) for name in names for task in METRICS[name]
    }


def test_precise_statistics_without_batch_norms_are_named(make_trainer, caplog):
    make_trainer("TEST.PRECISE_BN.ENABLED", True)
    assert "no effect here: TEST.PRECISE_BN.ENABLED (True)" in caplog.text
