"""Experiment tracking: what stand-ins of Weights & Biases and MLflow are sent."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hipie.engine import tracking
from hipie.engine.tracking import EVENT_WRITER_REGISTRY, TrackingError
from tests.toy_trainer import ToyTrainer, run


class Evaluated(ToyTrainer):
    @classmethod
    def test(cls, cfg, model, evaluators=None):
        return {"toy": {"refer": {"P@0.5": 50.0}}}


class FakeWandb(ModuleType):
    """`wandb` with the calls that the writer makes; `init` returns the module as the run."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits, self.defined, self.logged, self.finished = [], [], [], 0

    def init(self, **arguments):
        self.inits.append(arguments)
        self.id = arguments["id"] or f"run{len(self.inits)}"
        return self

    def define_metric(self, name, step_metric=None):
        self.defined.append((name, step_metric))

    def log(self, scalars):
        self.logged.append(scalars)

    def finish(self):
        self.finished += 1


class FakeMlflow(ModuleType):
    """`mlflow` with the calls that the writer makes, and MLflow's rules for names and lengths."""

    ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-. /")

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.uris, self.experiments, self.starts, self.logged, self.ended = [], [], [], [], 0
        self.parameters = {}

    def set_tracking_uri(self, uri):
        self.uris.append(uri)

    def set_experiment(self, name):
        self.experiments.append(name)

    def start_run(self, run_id=None, run_name=None):
        self.starts.append((run_id, run_name))
        identifier = run_id or f"run{len(self.starts)}"
        return SimpleNamespace(info=SimpleNamespace(run_id=identifier))

    def log_params(self, parameters):
        assert all(len(value) <= 500 for value in parameters.values())
        self.parameters.update(parameters)

    def log_metrics(self, scalars, step):
        assert all(set(name) <= self.ALLOWED for name in scalars)
        self.logged.append({**scalars, "iteration": step})

    def end_run(self):
        self.ended += 1


@pytest.fixture
def services(monkeypatch):
    """Stand-ins of both packages; nothing reaches a network."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fakes = FakeWandb(), FakeMlflow()
    for fake in fakes:
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
    return fakes


BOTH = ("TRACKING.WRITERS", ("wandb", "mlflow"), "TRACKING.PROJECT", "toys")


def test_runs_get_all_scalars_and_end(make_trainer, tmp_path, services):
    wandb, mlflow = services
    run(make_trainer(*BOTH, "TRACKING.RUN_NAME", "first", "TEST.EVAL_PERIOD", 8, kind=Evaluated))
    (init,) = wandb.inits
    assert (init["project"], init["name"], init["id"]) == ("toys", "first", None)
    assert init["dir"] == str(tmp_path)
    assert init["config"]["SOLVER"]["MAX_ITER"] == 20
    assert wandb.defined == [("iteration", None), ("*", "iteration")]
    assert mlflow.experiments == ["toys"] and mlflow.starts == [(None, "first")]
    assert mlflow.uris == [f"sqlite:///{tmp_path}/mlflow.db"]
    assert mlflow.parameters["SOLVER.MAX_ITER"] == "20"
    for logged, metric in ((wandb.logged, "toy/refer/P@0.5"), (mlflow.logged, "toy/refer/P_0.5")):
        iterations = [scalars["iteration"] for scalars in logged]
        assert iterations == sorted(iterations)
        by_name = {name: scalars["iteration"] for scalars in logged for name in scalars}
        assert {"loss_ce", "losses/things_ce", "losses/stuff_mask", "lr"} <= by_name.keys()
        assert [s["iteration"] for s in logged if metric in s] == [7, 15, 20]
        assert sum("total_loss" in scalars for scalars in logged) == 3
    assert (wandb.finished, mlflow.ended) == (1, 1)


def test_resumed_training_continues_the_run_and_a_new_one_does_not(make_trainer, services):
    wandb, mlflow = services
    run(make_trainer(*BOTH, kind=Evaluated))
    run(make_trainer(*BOTH, "SOLVER.MAX_ITER", 24, kind=Evaluated), resume=True)
    run(make_trainer(*BOTH, kind=Evaluated))
    assert [init["id"] for init in wandb.inits] == [None, "run1", None]
    assert [init["resume"] for init in wandb.inits] == [None, "allow", None]
    assert [identifier for identifier, _ in mlflow.starts] == [None, "run1", None]


def test_mlflow_server_of_the_environment_is_used(make_trainer, services, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/elsewhere")
    run(make_trainer("TRACKING.WRITERS", ("mlflow",), kind=Evaluated))
    assert services[1].uris == []
    assert services[1].starts == [(None, tmp_path.name)]


def test_missing_package_and_unknown_name_are_errors_before_training(make_trainer, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrackingError, match=r"wandb, which is not installed: .*hipie\[wandb\]"):
        make_trainer("TRACKING.WRITERS", ("wandb",))
    with pytest.raises(TrackingError, match=r'names "comet"; registered are mlflow, tensorboard'):
        make_trainer("TRACKING.WRITERS", ("comet",))


def test_writer_of_another_module_is_chosen_by_name(make_trainer, monkeypatch):
    class Counter(tracking.TensorboardXWriter):
        writes = 0

        def write(self):
            Counter.writes += 1

    monkeypatch.setitem(EVENT_WRITER_REGISTRY._obj_map, "counter", lambda cfg: Counter("."))
    run(make_trainer("TRACKING.WRITERS", ("counter",)))
    assert Counter.writes == 2


def test_tensorboard_has_terms_groups_and_metrics(make_trainer, tmp_path: Path):
    run(make_trainer("TEST.EVAL_PERIOD", 8, kind=Evaluated))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"loss_ce", "losses/things_ce", "losses/stuff_mask", "lr", "toy/refer/P@0.5"} <= set(
        events.Tags()["scalars"]
    )
    terms, groups = (
        {event.step: event.value for event in events.Scalars(name)}
        for name in ("loss_mask_maskdino", "losses/stuff_mask")
    )
    assert list(groups) == list(terms) == [7, 15, 19]
    assert all(0 < groups[step] < 2 * terms[step] for step in groups)
