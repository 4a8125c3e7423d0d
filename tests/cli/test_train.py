"""Command line of training and evaluation: `hipie train`, `hipie eval` and train_net.py."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from hipie import model_zoo
from hipie.cli import eval as eval_command
from hipie.cli import train
from hipie.engine.launch import _free_port
from hipie.engine.trainer import Trainer
from hipie.projects import project_folders
from tests.bit_equality import assert_equal

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "tests/tiny.yaml")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "train_net.py", "--config-file", TINY, *arguments]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def test_two_steps_and_an_evaluation(monkeypatch, restored_logging, tiny_options, tmp_path):
    done = call("SOLVER.MAX_ITER", "2", *tiny_options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    folder = tmp_path / "output"
    results = json.loads((folder / "results.json").read_text())
    metrics = {"panoptic_seg": "PQ", "segm": "AP", "sem_seg": "mIoU", "parts": "mIoU"}
    panoptic, parts, refer = (f"picturebook_val_{name}" for name in ("panoptic", "parts", "refer"))
    assert list(results) == [panoptic, parts, refer]
    datasets = {**dict.fromkeys(metrics, panoptic), "parts": parts, "refer": refer}
    for task, metric in {**metrics, "refer": "oIoU"}.items():
        assert 0 <= results[datasets[task]][task][metric] <= 100
    rows = json.loads((folder / "table.json").read_text())
    assert {row["task"] for row in rows} >= {*metrics, "refer"}
    assert all(row["protocol"] and row["protocol"] in done.stdout for row in rows)
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    (line,) = [one for one in done.stdout.splitlines() if "hipie.engine.event_writers" in one]
    assert "2/2  loss" in line and "stuff" in line
    assert len(line) < 250
    assert "the full log is" in done.stdout.splitlines()[0]
    # The table of parameters and those of the metrics are among them.
    assert len(done.stdout.splitlines()) < 140, "messages of other packages are in the log"
    assert "Warning" not in done.stderr and "CUDA_HOME" not in done.stderr
    log = (folder / "log.txt").read_text()
    for text in ("Running with full config", "Average Precision", "Environment info"):
        assert text in log and text not in done.stdout

    # Evaluation of the saved weights has the same results, without the training sets.
    weights = ["MODEL.WEIGHTS", str(folder / "model_final.pth")]
    no_training = ["DATASETS.TRAIN", "('no_such_data_set',)"]
    run_command(monkeypatch, "--eval-only", *weights, *tiny_options, *no_training)
    repeated = json.loads((folder / "results.json").read_text())
    assert repeated.keys() == results.keys()
    for dataset, tasks in results.items():
        assert repeated[dataset].keys() == tasks.keys()
        for task, numbers in tasks.items():
            expected = pytest.approx(numbers, abs=1e-3, nan_ok=True)
            assert repeated[dataset][task] == expected, (dataset, task)


def test_evaluation_takes_the_trained_weights_of_a_configuration() -> None:
    """Not those that its training starts from, unless the command line names some."""
    config = "nano/hipie_nano_picturebook.yaml"
    trained = str(model_zoo.get_weights(config))
    for options, expected in ((), trained), (("MODEL.WEIGHTS", "own.pth"), "own.pth"):
        args = train.parse_arguments(["--config-file", config, "--eval-only", *options])
        cfg = model_zoo.get_config(config, ["MODEL.WEIGHTS", "start.pth", *options])
        train.take_trained_weights(cfg, args)
        assert expected == cfg.MODEL.WEIGHTS


def stop_training(output: Path, number: int, to_group: bool, *options: str) -> int:
    """Start a training as the leader of a process group, send a signal, return the exit status."""
    with output.open("w") as stream:
        process = subprocess.Popen(
            command(*options),
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # Under nohup this process ignores SIGHUP, and so would the training.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )
    try:
        waited = time.monotonic() + 400
        while "Starting training from iteration" not in output.read_text():
            assert process.poll() is None, output.read_text()[-2000:]
            assert time.monotonic() < waited
            time.sleep(0.2)
        time.sleep(3)
        if to_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        # Workers of spawned processes import everything again before the iteration ends.
        return process.wait(400)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def saved_iteration(folder: Path) -> int:
    """Iteration of the checkpoint from which a resumed run starts."""
    name = (folder / "last_checkpoint").read_text()
    reached = torch.load(folder / name, weights_only=True)["iteration"]
    assert name == f"model_{reached:07d}.pth"
    return reached


def test_signal_to_the_group_saves_a_checkpoint_for_resume(tiny_options, tmp_path):
    """As `timeout`, SLURM and Docker send it: workers of the loader get it as well."""
    options = ["SOLVER.MAX_ITER", "5000", "DATASETS.TEST", "()", *tiny_options]
    workers = ("DATALOADER.NUM_WORKERS", "2")
    output = tmp_path / "output.txt"
    status = stop_training(output, signal.SIGTERM, True, *options, *workers)
    assert status == 128 + signal.SIGTERM, output.read_text()[-3000:]
    assert "--resume continues from it" in output.read_text()
    assert "killed by signal" not in output.read_text()
    reached = saved_iteration(tmp_path / "output")
    options[1] = str(reached + 3)
    done = call("--resume", *options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"Starting training from iteration {reached + 1}" in done.stdout
    final = torch.load(tmp_path / "output/model_final.pth", weights_only=True)
    assert final["iteration"] == reached + 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("to_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_saves_a_checkpoint(
    tiny_options, tmp_path, number, to_group, processes, workers
):
    options = ["SOLVER.MAX_ITER", "5000", "DATASETS.TEST", "()", *tiny_options]
    options += ["DATALOADER.NUM_WORKERS", str(workers)]
    arguments = ["--cpu-workers", str(processes), *options]
    output = tmp_path / "output.txt"
    status = stop_training(output, number, to_group, *arguments)
    assert status == 128 + number, output.read_text()[-3000:]
    assert "Traceback" not in output.read_text() and "FutureWarning" not in output.read_text()
    assert saved_iteration(tmp_path / "output") >= 0


SAVE_EVERY_PROCESS = """
import torch
from detectron2.utils import comm

from hipie.engine.trainer import Trainer


def after_train(self):
    state = {k: v.clone() for k, v in self._trainer.model.state_dict().items()}
    torch.save(state, f"{self.cfg.OUTPUT_DIR}/state{comm.get_rank()}.pt")
    super(Trainer, self).after_train()


Trainer.after_train = after_train
"""


def test_two_machines_train_the_same_weights(tiny_options, tmp_path):
    """Two commands on this machine, one CPU process each, joined by an address."""
    (tmp_path / "save_every_process.py").write_text(SAVE_EVERY_PROCESS)
    address = f"tcp://127.0.0.1:{_free_port()}"
    options = [
        *("SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()", "MODEL.DEVICE", "cpu", *tiny_options),
        *("DATALOADER.DATASET_BATCH_SIZE", "()", "SOLVER.IMS_PER_BATCH", "2"),
    ]
    machines = [
        subprocess.Popen(
            command(
                *("--num-machines", "2", "--machine-rank", str(rank), "--dist-url", address),
                *("--import", str(tmp_path / "save_every_process.py")),
                *options,
            ),
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        printed = [machine.communicate(timeout=400)[0] for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], "\n".join(printed)[-4000:]
    output = tmp_path / "output"
    assert "World size: 2" in (output / "log.txt").read_text()
    assert "World size: 2" in (output / "log.txt.rank1").read_text()
    first, second = (torch.load(output / f"state{rank}.pt") for rank in range(2))
    assert_equal(first, second)
    saved = torch.load(output / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 1
    assert all(
        torch.equal(second[f"module.{name}"], saved["model"][name]) for name in saved["model"]
    )


def run_command(monkeypatch, *arguments: str) -> None:
    run_in_this_process(monkeypatch)
    train.main(["--config-file", TINY, *arguments])


def run_in_this_process(monkeypatch) -> None:
    monkeypatch.setattr(train, "launch", lambda main, arguments, **_: main(*arguments))
    monkeypatch.setattr(train, "keep_freed_memory", lambda: None)


def state_of(trainer: Trainer) -> dict:
    """Weights, optimizer state and schedule."""
    inner = trainer._trainer
    return {
        "weights": {k: v.clone() for k, v in inner.model.state_dict().items()},
        "optimizer": inner.optimizer.state_dict(),
        "schedule": trainer.scheduler.state_dict(),
    }


@pytest.mark.parametrize("bfloat16", [False, True])
def test_resumed_training_is_bit_exact(tiny_cfg, tmp_path, bfloat16):
    """All three tasks, random numbers and optimizer groups, with new objects after the resume."""
    tiny_cfg.DATASETS.TEST = ()
    tiny_cfg.SOLVER.CHECKPOINT_PERIOD = 10
    tiny_cfg.SOLVER.AMP.ENABLED, tiny_cfg.SOLVER.AMP.PRECISION = bfloat16, "bfloat16"

    def run(steps: int, resume: bool) -> Trainer:
        tiny_cfg.SOLVER.MAX_ITER = 20
        torch.manual_seed(0)
        trainer = Trainer(tiny_cfg)
        trainer.resume_or_load(resume)
        trainer.max_iter = steps
        trainer.train()
        return trainer

    tiny_cfg.OUTPUT_DIR = str(tmp_path / "uninterrupted")
    uninterrupted = state_of(run(20, False))
    tiny_cfg.OUTPUT_DIR = str(tmp_path / "resumed")
    run(10, False)
    torch.rand(17)
    resumed = run(20, True)
    assert resumed.start_iter == 10
    assert_equal(uninterrupted, state_of(resumed))
    moved = torch.load(tmp_path / "resumed/model_0000009.pth", weights_only=True)["model"]
    last = uninterrupted["weights"]
    assert sum(not torch.equal(moved[key], last[key]) for key in moved) > 50


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["SOLVER.MAX_ITR", "3"], "there is no key SOLVER.MAX_ITR; similar names"),
        (["SOLVER.MAX_ITER", "abc"], "SOLVER.MAX_ITER cannot be 'abc'"),
        (["MODEL.HIPIE.HIDDEN_DIM", "40"], "MODEL.HIPIE.HIDDEN_DIM is 40"),
        (["MODEL.META_ARCHITECTURE", "Foo"], 'MODEL.META_ARCHITECTURE is "Foo", which is not'),
        (["DATASETS.TRAIN", "('nothing',)"], 'there is no data set "nothing"'),
        (["DATASETS.TRAIN", "('picturebok_train',)"], "similar names are picturebook_train"),
        (["MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth"),
        (["DATALOADER.DATASET_RATIO", "(1.0,)"], "DATALOADER.DATASET_RATIO has 1 numbers"),
        (["PICTUREBOOK.VAL_PAGES", "0"], "needs at least one page"),
    ],
)
def test_wrong_input_exits_with_one_line(
    monkeypatch, restored_logging, tiny_options, options, expected
):
    with pytest.raises(SystemExit) as ended:
        run_command(monkeypatch, *tiny_options, *options)
    message = ended.value.code
    assert message.startswith("hipie train: ")
    assert expected in message
    assert "\n" not in message


def test_unreadable_test_set_is_an_error_before_training(
    monkeypatch, restored_logging, tiny_options, tmp_path
):
    monkeypatch.setattr(Trainer, "train", lambda _: pytest.fail("it trained"))
    with pytest.raises(SystemExit, match='there is no data set "nothing"'):
        run_command(monkeypatch, *tiny_options, "DATASETS.TEST", "('nothing',)")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "empty"))
    with pytest.raises(SystemExit, match="empty/refcoco/"):
        run_command(monkeypatch, *tiny_options, "DATASETS.TEST", "('refcoco_unc_val',)")


def test_unknown_configuration_is_an_error(monkeypatch):
    with pytest.raises(SystemExit) as ended:
        train.main(["--config-file", "nano/hipie_nono"])
    assert 'no configuration "nano/hipie_nono"; similar names are nano/' in ended.value.code


def test_traceback_is_in_the_log_only(
    monkeypatch, restored_logging, tiny_options, tmp_path, capsys
):
    with pytest.raises(SystemExit):
        run_command(monkeypatch, *tiny_options, "MODEL.WEIGHTS", "nowhere.pth")
    assert "Traceback" not in capsys.readouterr().out
    assert "Traceback" in (tmp_path / "output/log.txt").read_text()


def test_messages_of_projects_are_in_the_log(
    monkeypatch, restored_logging, tiny_options, tiny_weights, tmp_path
):
    projects = project_folders()
    assert projects

    def evaluated(*_: object) -> None:
        for name in projects:
            logging.getLogger(f"{name}.mappers").warning("message of %s", name)

    monkeypatch.setattr(Trainer, "test", evaluated)
    weights = ["MODEL.HIPIE.HIDDEN_DIM", "64", "MODEL.WEIGHTS", str(tiny_weights)]
    run_command(monkeypatch, "--eval-only", *tiny_options, *weights)
    log = (tmp_path / "output/log.txt").read_text()
    assert all(f"message of {name}" in log for name in projects)


def test_gpus_and_cpu_workers_are_exclusive():
    with pytest.raises(SystemExit, match="--num-gpus and --cpu-workers"):
        train.main(
            [
                "--config-file",
                "nano/hipie_nano_picturebook.yaml",
                "--num-gpus",
                "2",
                "--cpu-workers",
                "2",
            ]
        )


def test_hipie_eval_evaluates_only(monkeypatch, restored_logging, tiny_options, tiny_weights):
    calls = []
    run_in_this_process(monkeypatch)
    monkeypatch.setattr(Trainer, "test", lambda cfg, model: calls.append(cfg.MODEL.WEIGHTS))
    monkeypatch.setattr(Trainer, "train", lambda _: pytest.fail("it trained"))
    weights = ["MODEL.HIPIE.HIDDEN_DIM", "64", "MODEL.WEIGHTS", str(tiny_weights)]
    assert eval_command.main(["--config-file", TINY, *tiny_options, *weights]) == 0
    assert calls == [str(tiny_weights)]
    for options in ([], ["--resume"]):
        with pytest.raises(
            SystemExit, match="there are no weights to evaluate: name them by MODEL"
        ):
            eval_command.main(["--config-file", TINY, *options, *tiny_options])
    # Weights of encoders, from which a recipe starts, are not evaluated.
    with pytest.raises(SystemExit, match="there are no weights to evaluate"):
        eval_command.main(["--config-file", "refersam/refersam_vit_b.yaml", *tiny_options[2:]])
    other_size = [*weights, "MODEL.HIPIE.THINGS.NUM_QUERIES", "14"]
    with pytest.raises(SystemExit, match="is 12x64 in the file and 14x64 in this model"):
        eval_command.main(["--config-file", TINY, *tiny_options, *other_size])
    assert len(calls) == 1
    with pytest.raises(SystemExit, match="^hipie eval: there is no key SOLVER.MAX_ITR"):
        eval_command.main(["--config-file", TINY, "SOLVER.MAX_ITR", "3"])


def test_folder_with_another_run_is_refused(monkeypatch, restored_logging, tiny_options, tmp_path):
    run_in_this_process(monkeypatch)
    configs = []

    def started(cfg):
        configs.append(cfg)
        raise SystemExit(0)

    monkeypatch.setattr(train, "Trainer", started)
    options = ["DATASETS.TEST", "()", "SEED", "-1", *tiny_options]
    command = ["--config-file", TINY, *options]
    with pytest.raises(SystemExit):
        train.main(command)
    (tmp_path / "output/model_final.pth").write_text("")
    with pytest.raises(SystemExit, match=r"holds another run \(model_final\.pth\): --resume"):
        train.main(command)
    with pytest.raises(SystemExit):
        train.main(["--resume", *command])
    assert (tmp_path / "output/model_final.pth").is_file()
    with pytest.raises(SystemExit):
        train.main(["--overwrite", *command])
    assert not (tmp_path / "output/model_final.pth").exists()
    with pytest.raises(SystemExit) as ended:
        train.main(["--overwrite", "--resume", *command])
    assert ended.value.code == 2
    first, resumed, anew = (cfg.SEED for cfg in configs)
    assert first == resumed != anew
    assert min(first, anew) >= 0


def test_module_that_does_not_exist_is_an_error(monkeypatch):
    with pytest.raises(SystemExit, match="hipie train: there is no module absent_module to import"):
        run_command(monkeypatch, "--import", "absent_module")
