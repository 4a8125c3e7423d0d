"""A run that is killed and resumed ends with the weights of an uninterrupted one, to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from detectron2.engine.train_loop import HookBase

from hipie.checkpoint import Checkpointer
from tests.bit_equality import assert_equal
from tests.toy_trainer import Toy, ToyTrainer

ROOT = Path(__file__).parents[2]
HALF = ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "float16")
FEATURES = {
    "accumulation": ("SOLVER.ACCUMULATION_STEPS", "2"),
    "average of the weights": ("MODEL_EMA.ENABLED", "True", "MODEL_EMA.DECAY", "0.9"),
    "float16": HALF,
    "bfloat16": ("SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bfloat16"),
    "SGD": ("SOLVER.OPTIMIZER", "SGD", "SOLVER.NESTEROV", "True", "SOLVER.BASE_LR", "0.001"),
    "clipping of single gradients": ("SOLVER.CLIP_GRADIENTS.ENABLED", "True"),
}
TOGETHER = tuple(
    option
    for name, options in FEATURES.items()
    if name not in ("bfloat16", "SGD")
    for option in options
)


def load(file: Path) -> dict:
    return torch.load(file, weights_only=True)


class Float32Losses(Toy):
    """Model whose losses are float32 under autocast, as those of segmentation models."""

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: loss.float() * 0.01 for name, loss in super().forward(batch).items()}


class SavingTrainer(ToyTrainer):
    """Trainer with this package's checkpointer."""

    @classmethod
    def build_model(cls, cfg):
        torch.manual_seed(5)
        return Float32Losses()

    @classmethod
    def build_checkpointer(cls, cfg, model, **checkpointables):
        return Checkpointer(model, cfg.OUTPUT_DIR, **checkpointables)


class Killed(BaseException):
    """End of a process, which no error handling sees."""


class KillAt(HookBase):
    """Hook that ends the training in the middle of an iteration."""

    def before_step(self) -> None:
        if self.trainer.iter == 13:
            raise Killed


@pytest.mark.parametrize("feature", [*FEATURES, "freezing", "together"])
def test_trainer_resumes_exactly(make_trainer, tmp_path, feature):
    options = FEATURES.get(feature, TOGETHER)
    if feature == "freezing":
        torch.save({"model": Toy().state_dict()}, tmp_path / "start.pth")
        options = ("MODEL.FREEZE", "('first.*',)", "MODEL.WEIGHTS", str(tmp_path / "start.pth"))
    options = (*options, "SOLVER.CHECKPOINT_PERIOD", 5)

    def run(folder: str, resume: bool = False, hooks: tuple = ()) -> None:
        output = ("OUTPUT_DIR", str(tmp_path / folder))
        trainer = make_trainer(*options, *output, kind=SavingTrainer)
        if feature == "float16":
            # A scale that grows, and overflows at first.
            trainer._trainer.grad_scaler = torch.amp.GradScaler(
                "cpu", init_scale=2.0**30, growth_interval=3
            )
        trainer.register_hooks(hooks)
        trainer.resume_or_load(resume)
        torch.rand(17)
        trainer.train()

    run("uninterrupted")
    with pytest.raises(Killed):
        run("resumed", hooks=(KillAt(),))
    assert (tmp_path / "resumed/last_checkpoint").read_text() == "model_0000009.pth"
    run("resumed", resume=True)
    expected = load(tmp_path / "uninterrupted/model_final.pth")
    at_kill = load(tmp_path / "uninterrupted/model_0000014.pth")
    assert not torch.equal(expected["model"]["second.weight"], at_kill["model"]["second.weight"])
    assert ("ema" in expected) == (feature in ("average of the weights", "together"))
    if feature == "float16":
        assert expected["trainer"]["_trainer"]["skipped_steps"]["total"] > 0
    assert_equal(load(tmp_path / "resumed/model_final.pth"), expected)


def start(log: Path, *arguments: str) -> subprocess.Popen:
    with log.open("w") as stream:
        return subprocess.Popen(
            [sys.executable, "train_net.py", "--config-file", "tests/tiny.yaml", *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


@pytest.mark.slow
@pytest.mark.parametrize("feature", [*FEATURES, "freezing", "checkpointing", "together"])
def test_killed_program_resumes_exactly(tiny_options, tmp_path, feature):
    """Real programs; one of them is killed by SIGKILL after its first checkpoint."""
    extra = {
        "freezing": ("MODEL.FREEZE", "('text_encoder.*',)"),
        "checkpointing": tuple(
            option
            for part in ("BACKBONE", "FUSION", "ENCODER", "DECODER")
            for option in (f"MODEL.ACTIVATION_CHECKPOINTING.{part}", "True")
        ),
    }
    options = [
        *tiny_options[:-2],
        *("DATASETS.TEST", "()", "SOLVER.MAX_ITER", "12", "SOLVER.STEPS", "(9,)"),
        *("SOLVER.CHECKPOINT_PERIOD", "3"),
        *(FEATURES | extra).get(feature, (*TOGETHER, *extra["freezing"], *extra["checkpointing"])),
    ]
    expected, killed, resumed = (tmp_path / name for name in ("expected", "killed", "resumed"))
    uninterrupted = start(expected.with_suffix(".log"), *options, "OUTPUT_DIR", str(expected))
    log = killed.with_suffix(".log")
    process = start(log, *options, "OUTPUT_DIR", str(killed))
    try:
        waited = time.monotonic() + 300
        while not (killed / "last_checkpoint").is_file():
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < waited
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        assert uninterrupted.wait(300) == 0, expected.with_suffix(".log").read_text()[-3000:]
    finally:
        process.kill()
        uninterrupted.kill()
    assert not (killed / "model_final.pth").exists()
    log = resumed.with_suffix(".log")
    process = start(log, "--resume", *options, "OUTPUT_DIR", str(killed))
    assert process.wait(300) == 0, log.read_text()[-3000:]
    assert "Starting training from iteration" in log.read_text()
    final, earlier = (load(expected / f"model_{name}.pth") for name in ("final", "0000008"))
    weights = final["model"].items()
    moved = [name for name, value in weights if not torch.equal(value, earlier["model"][name])]
    assert len(moved) > 50
    assert_equal(load(killed / "model_final.pth"), final)
