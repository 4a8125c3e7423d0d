"""Module for `train_net.py --import`: data sets of prepared batches, and a record of the training.

Every data set `case_<name>` is one case of `CASES`; its images have objects of the listed classes.
Random numbers are those of `distributed_gradients.py`, so that an image has the same ones in any
batch. Every process writes its gradients and losses of two batches of each case to
`OUTPUT_DIR/recorded<rank>.pt`. `FAIL_AT="RANK ITERATION KIND, ..."` in the environment makes a
process fail: KIND is "nan" (of the images), "raise" or "kill" (in the first attempt of torchrun).
"""

from __future__ import annotations

import itertools
import os
import signal
from functools import partial
from typing import Any

import torch
from detectron2.engine.train_loop import HookBase
from detectron2.utils import comm

from hipie.data.build import DATASET_MAPPER_REGISTRY, MappedDataset
from hipie.data.datasets.catalog import register_dataset
from hipie.engine.trainer import Trainer
from hipie.errors import InputError
from tests.modeling.meta_arch.distributed_gradients import (
    HEIGHT,
    MANY,
    VOCABULARY,
    WIDTH,
    batch_of,
    randomize_zero_heads,
    replace_random_numbers,
)

# Task and classes of every image (0 and 1 are things, 2 and 3 stuff), by number of processes. The
# data sets with one image more than processes end in the middle of a batch, which is filled up.
CASES: dict[int, dict[str, tuple[str, list[list[int]]]]] = {
    2: {
        "empty": ("detection", [[], [1, 0, 2]]),
        "only_stuff": ("detection", [[2, 3], [0, 1, 1]]),
        "1_and_30": ("detection", [[0], MANY]),
        "nothing_meant": ("referring", [[0], []]),
        "ends_early": ("detection", [[1, 0, 2], [0], [3]]),
    },
    3: {
        "empty_stuff_30": ("detection", [[], [2], MANY]),
        "nothing_meant_3": ("referring", [[], [0], []]),
        "ends_early_3": ("detection", [[1, 0, 2], [0], [3], []]),
    },
}


@DATASET_MAPPER_REGISTRY.register()
def recorded_case(cfg: Any, dataset_name: str, training: bool) -> MappedDataset:
    """Build the mapper of a case, whose records are numbers of images."""
    cases = {name: case for part in CASES.values() for name, case in part.items()}
    case = cases[dataset_name.removeprefix("case_")]
    images = batch_of(*case)
    return MappedDataset(records_of(case), lambda record, seed: images[record["image_id"]])


def records_of(case: tuple[str, list[list[int]]]) -> list[dict[str, Any]]:
    """Records of a case; its images have no files."""
    return [{"image_id": i, "width": WIDTH, "height": HEIGHT} for i in range(len(case[1]))]


class Recorder(HookBase):
    """Hook that keeps gradients and losses, and writes them."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor | None]] = []
        self.losses: list[dict[str, float]] = []

    def after_backward(self) -> None:
        self.gradients.append(
            {
                name.removeprefix("module."): None if p.grad is None else p.grad.clone()
                for name, p in self.trainer._trainer.model.named_parameters()
                if p.requires_grad
            }
        )

    def after_step(self) -> None:
        self.trainer._trainer.loss_history.write()
        latest = self.trainer.storage.latest()
        iteration = self.trainer.iter
        self.losses.append({k: v for k, (v, i) in latest.items() if "loss" in k and i == iteration})
        if len(self.losses) == 2 * len(self.trainer.cfg.DATASETS.TRAIN):
            file = f"{self.trainer.cfg.OUTPUT_DIR}/recorded{comm.get_rank()}.pt"
            skipped = self.trainer._trainer.skipped_steps
            content = {"gradients": self.gradients, "losses": self.losses, "skipped": skipped}
            torch.save(content, file)


class Failure(HookBase):
    """Hook that ends this process, or makes its images nan."""

    def __init__(self, iteration: int, kind: str) -> None:
        self.iteration, self.kind = iteration, kind

    def before_step(self) -> None:
        if self.trainer.iter != self.iteration:
            return
        if self.kind == "nan":
            trainer = self.trainer._trainer
            batches = trainer._data_loader_iter
            first = [{**item, "image": item["image"] * torch.nan} for item in next(batches)]
            trainer._data_loader_iter_obj = itertools.chain([first], batches)
        elif self.kind == "raise":
            raise InputError("the image a.jpg cannot be read")
        elif os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            os.kill(os.getpid(), signal.SIGKILL)


def build_hooks(self: Trainer) -> list[HookBase]:
    """Hooks of the trainer with those of this module."""
    built = trainer_hooks(self)
    if any(name.startswith("case_") for name in self.cfg.DATASETS.TRAIN):
        built.insert(0, Recorder())
    for failure in filter(None, os.environ.get("FAIL_AT", "").split(",")):
        rank, iteration, kind = failure.split()
        if comm.get_rank() == int(rank):
            built.insert(0, Failure(int(iteration), kind))
    return built


def build_model(cls: type[Trainer], cfg: Any) -> torch.nn.Module:
    """Model of the trainer, in which every parameter has a gradient."""
    model = randomize_zero_heads(trainer_model(cfg))
    if any(name.startswith("case_") for name in cfg.DATASETS.TRAIN):
        replace_random_numbers()
    return model


for cases in CASES.values():
    for case_name, case in cases.items():
        read = partial(records_of, case)
        register_dataset(f"case_{case_name}", read, vocabulary=VOCABULARY, task="recorded_case")
trainer_hooks, trainer_model = Trainer.build_hooks, Trainer.build_model
Trainer.build_hooks = build_hooks
Trainer.build_model = classmethod(build_model)
