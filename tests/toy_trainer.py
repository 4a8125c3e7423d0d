"""Trainer of a model of two layers, for tests of the training loop and its hooks."""

from __future__ import annotations

import os

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine.train_loop import HookBase
from torch import nn

from hipie.engine.optimizer import build_optimizer
from hipie.engine.trainer import Trainer


class Toy(nn.Module):
    """Model whose losses depend on the batch, the weights and torch's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.first(batch)
        self.hidden_dtype = hidden.dtype
        noise = torch.rand(4)
        return {
            "loss_ce": self.second(hidden * noise).pow(2).mean(),
            "loss_mask_maskdino": hidden.abs().mean(),
        }


class ToyTrainer(Trainer):
    """Trainer of `Toy`; batch t is a function of t."""

    drawn: list[int]

    @classmethod
    def build_model(cls, cfg):
        torch.manual_seed(5)
        return Toy()

    @classmethod
    def build_checkpointer(cls, cfg, model, **checkpointables):
        return DetectionCheckpointer(model, cfg.OUTPUT_DIR, **checkpointables)

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    def build_train_loader(self, cfg, start=0):
        self.drawn = []
        while True:
            self.drawn.append(start)
            yield torch.randn(3, 4, generator=torch.Generator().manual_seed(start))
            start += 1

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        return {"panoptic_seg": {"PQ": 1.0}, "refer": {"oIoU": 2.0}}


class StopAt(HookBase):
    """Hook that sends this process a signal in the middle of a step."""

    def __init__(self, iteration: int, number: int, times: int = 1) -> None:
        self.iteration, self.number, self.times = iteration, number, times

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def run(trainer: Trainer, resume: bool = False) -> Trainer:
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer
