"""One of two processes that train with sharded parameters, on the CPU.

`sharded_training.py RANK RENDEZVOUS_FILE FOLDER CASES` writes `FOLDER/RANK.pt`. CASES is "core",
"options" or "hipie".
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
warnings.simplefilter("ignore")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.engine.train_loop import HookBase  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.utils import comm  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402

from hipie.config import add_hipie_config  # noqa: E402
from hipie.engine.optimizer import build_optimizer  # noqa: E402
from hipie.engine.sharding import (  # noqa: E402
    ShardingError,
    fill_missing_gradients,
    full_weights,
    parameter_bytes,
    shard_model,
)
from hipie.engine.trainer import Trainer, wrap_for_processes  # noqa: E402
from hipie.modeling.activation_checkpointing import checkpoint_layer_groups  # noqa: E402
from hipie.modeling.meta_arch.base import SegmentationModel  # noqa: E402

STEPS = 6


class Toy(SegmentationModel):
    """Two layers with dropout, one of two heads a task, frozen weights, odd sizes, a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.3), nn.ReLU(), nn.Linear(7, 5))
            for _ in range(2)
        )
        self.heads = nn.ModuleList(nn.Linear(5, 1) for _ in range(2))
        self.frozen = nn.Parameter(torch.randn(5), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(0.5), requires_grad=False)
        self.register_buffer("shift", torch.randn(5))

    def layer_groups(self) -> dict[str, list[nn.Module]]:
        return {"encoder": list(self.layers)}

    def losses(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor]:
        x = torch.stack([item["x"] for item in batched_inputs]) * self.frozen + self.shift
        for layer in self.layers:
            x = x + self.scale * layer(x)
        logits = self.heads[batched_inputs[0]["task"]](x)
        return {"loss_ce": (logits.float() - 2).square().mean(), "loss_box": x.float().abs().mean()}

    def inference(self, batched_inputs, image_features=None):
        x = torch.stack([item["x"] for item in batched_inputs])
        for layer in self.layers:
            x = layer(x)
        return list(self.heads[0](x))


class ToyTrainer(Trainer):
    """Trainer of `Toy`, whose weights at first are other ones in every process, except with DDP."""

    @classmethod
    def build_model(cls, cfg):
        torch.manual_seed(5 + (comm.get_rank() if cfg.SOLVER.FSDP.ENABLED else 0))
        model = Toy()
        if cfg.MODEL.ACTIVATION_CHECKPOINTING.ENCODER:
            checkpoint_layer_groups(model.layer_groups(), ["encoder"], "Toy")
        return model

    def build_train_loader(self, cfg, start=0) -> Iterator[list[dict]]:
        rank = comm.get_rank()
        while True:
            generator = torch.Generator().manual_seed(2 * start + rank)
            x = torch.randn(4, 5, generator=generator)
            yield [{"x": row, "task": start % 2} for row in x]
            start += 1

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        return {}


class Terminate(HookBase):
    """Sends the second process SIGTERM in the middle of an iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_step(self) -> None:
        if self.trainer.iter == self.iteration and comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def full(value: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor with the shares of all processes."""
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.detach().clone()


def toy_cfg(folder: Path, *options):
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.DEVICE = "cpu"
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.MAX_GRAD_NORM = 0.5
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.FSDP.MIN_LAYER_PARAMETERS = 0
    cfg.merge_from_list(["SOLVER.MAX_ITER", STEPS, "SOLVER.STEPS", (4,), *options])
    return cfg


def train(
    folder: Path, *options, resume: bool = False, hooks: tuple = (), steps: bool = True
) -> dict:
    """Weights, moments and learning rates after a run, after a signal, or before the first step."""
    trainer = ToyTrainer(toy_cfg(folder, *options))
    trainer.register_hooks(list(hooks))
    trainer.resume_or_load(resume)
    status = 0
    try:
        if steps:
            trainer.train()
    except SystemExit as error:
        status = error.code
    model, optimizer = trainer._trainer.model, trainer._trainer.optimizer
    averages = trainer.ema.state_dict() if trainer.ema else {}
    names = {p: n.removeprefix("module.") for n, p in model.named_parameters()}
    return {
        "status": status,
        "start": trainer.start_iter,
        "bytes": parameter_bytes(model),
        "weights": {
            name.removeprefix("module."): full(value) for name, value in model.state_dict().items()
        },
        "moments": {
            names[parameter]: {key: full(value) for key, value in state.items()}
            for parameter, state in optimizer.state.items()
        },
        "averages": {name: full(value) for name, value in averages.items()},
        "rates": [group["lr"] for group in optimizer.param_groups],
    }


def core_cases(folder: Path) -> dict:
    """Runs of `Toy` by name: replicated, sharded, stopped and resumed."""
    on = ("SOLVER.FSDP.ENABLED", True)
    often = ("SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.MAX_CHECKPOINTS", 2)
    runs = {
        "ddp": train(folder / "ddp"),
        "fsdp": train(folder / "fsdp", *on, *often),
        "stopped": train(folder / "stopped", *on, hooks=(Terminate(2),)),
        "resumed": train(folder / "stopped", *on, resume=True),
    }
    return {"runs": runs, "evaluation": evaluate(), "errors": errors(folder)}


def option_cases(folder: Path) -> dict:
    """Runs of `Toy` by name, with every option that sharding goes with."""
    on = ("SOLVER.FSDP.ENABLED", True)
    recomputed = ("MODEL.ACTIVATION_CHECKPOINTING.ENCODER", True)
    runs = {
        "ddp": train(folder / "ddp"),
        "recomputed ddp": train(folder / "recomputed-ddp", *recomputed),
        "recomputed": train(folder / "recomputed", *on, *recomputed),
        "one group": train(folder / "one", *on, "SOLVER.FSDP.MIN_LAYER_PARAMETERS", 10**6),
    }
    for name, options in (("ddp", ()), ("fsdp", on)):
        for precision in ("bfloat16", "float16"):
            amp = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", precision)
            runs[f"{precision} {name}"] = train(folder / f"{precision}-{name}", *amp, *options)
        accumulating = ("SOLVER.ACCUMULATION_STEPS", 2, *options)
        runs[f"accumulated {name}"] = train(folder / f"accumulated-{name}", *accumulating)
        averaging = ("MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 0.5, *options)
        runs[f"averaged {name}"] = train(folder / f"averaged-{name}", *averaging)
    third = (Terminate(2),)
    train(folder / "to-ddp", *on, hooks=third)
    runs["resumed by ddp"] = train(folder / "to-ddp", resume=True)
    train(folder / "from-ddp", hooks=third)
    dist.barrier()  # the first process alone writes this checkpoint
    runs["resumed from ddp"] = train(folder / "from-ddp", *on, resume=True)
    weights = ("MODEL.WEIGHTS", str(folder / "ddp" / "model_final.pth"))
    runs["loaded"] = train(folder / "loaded", *on, *weights, steps=False)
    return {"runs": runs}


def evaluate() -> list[torch.Tensor]:
    """Outputs of this process's share of a data set: two images of rank 0, five of rank 1."""
    model = ToyTrainer.build_model(toy_cfg(Path()))
    plain = ToyTrainer.build_model(toy_cfg(Path())).eval()
    shard_model(model, 0)
    model.eval()
    images = torch.randn(2 + 3 * comm.get_rank(), 5)
    with full_weights(model):
        outputs = [model([{"x": image}])[0] for image in images]
    assert any(isinstance(parameter, DTensor) for parameter in model.parameters())
    model.train()
    sum(model([{"x": images[0], "task": 0}]).values()).backward()
    assert parameter_bytes(model) < parameter_bytes(plain)
    return [outputs, [plain([{"x": image}])[0] for image in images]]


def errors(folder: Path) -> dict[str, str]:
    """Messages about what cannot be sharded."""
    messages = {}
    on = ("SOLVER.FSDP.ENABLED", True)
    try:
        ToyTrainer(toy_cfg(folder / "e", *on, "TEST.BEST_CHECKPOINT_METRIC", "a/b/c"))
    except ShardingError as error:
        messages["best"] = str(error)
    scalar, shared = Toy(), Toy()
    scalar.scale.requires_grad_(True)
    shared.layers[1][0].weight = shared.layers[0][0].weight
    for name, model in (("scalar", scalar), ("shared", shared)):
        try:
            shard_model(model, 0)
        except ShardingError as error:
            messages[name] = str(error)
    return messages


def hipie_cases(_folder: Path) -> dict:
    """Three steps of HIPIE, one a task, sharded or not, with and without recomputation."""
    from tests.modeling.meta_arch.distributed_gradients import batch_of, randomize_zero_heads

    batches = [
        batch_of("detection", [[1, 0, 2], [1, 2, 3]]),
        batch_of("parts", [[1, 0, 2], [1, 2, 3]]),
        batch_of("referring", [[0], [0]]),
    ]
    runs = {}
    for kind in ("ddp", "fsdp", "recomputed fsdp"):
        cfg = get_cfg()
        add_hipie_config(cfg)
        cfg.merge_from_file(str(ROOT / "tests/tiny.yaml"))
        cfg.MODEL.HIPIE.THINGS.FUSION_DROPOUT = 0.1
        for part in ("BACKBONE", "FUSION", "ENCODER", "DECODER"):
            cfg.MODEL.ACTIVATION_CHECKPOINTING[part] = "recomputed" in kind
        torch.manual_seed(0)
        model = randomize_zero_heads(build_model(cfg)).train()
        wrapped = model
        if "fsdp" in kind:
            shard_model(model, 1000)
        else:
            wrapped = wrap_for_processes(model)
        optimizer = build_optimizer(cfg, model)
        for group in optimizer.param_groups:
            # A gradient of 0 up to rounding would be normalised to a whole step.
            group["eps"] = 1e-4
        losses = []
        for step, batch in enumerate(batches):
            torch.manual_seed(10 * step + comm.get_rank())
            terms = wrapped(batch[comm.get_rank() :][:1])
            optimizer.zero_grad()
            sum(terms.values()).backward()
            fill_missing_gradients(model)
            optimizer.step()
            losses.append(float(sum(terms.values())))
        runs[kind] = {
            "losses": losses,
            "bytes": parameter_bytes(model),
            "weights": {name: full(parameter) for name, parameter in model.named_parameters()},
        }
    return {"runs": runs}


def main() -> None:
    rank, rendezvous, folder, cases = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    comm.create_local_process_group(2)
    result = {"core": core_cases, "options": option_cases, "hipie": hipie_cases}[cases](
        Path(folder)
    )
    torch.save(result, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
