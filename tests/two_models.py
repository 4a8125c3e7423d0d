"""One of two processes that train on a batch of two: `two_models.py RANK FILE OUTPUT OPTIONS`.

Writes the gradients of the whole batch, found alone, and those that it shares with the other.
Draws depend on their shape's tail only, so that an image gets the same alone and in company.
"""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
warnings.simplefilter("ignore")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.utils import comm  # noqa: E402
from test_universal import WORDS, image, objects, wake  # noqa: E402

from hipie.config import add_hipie_config  # noqa: E402
from hipie.engine.trainer import wrap_for_processes  # noqa: E402


def steady(shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers in 0..1 that look drawn: the same for every entry of the first dimension."""
    tail = shape[1:]
    one = torch.arange(max(1, int(torch.tensor(tail).prod()) if tail else 1)).float()
    return ((one * 0.754877 + 0.13) % 1.0).reshape(tail).expand(shape).clone()


def fix_draws() -> None:
    """Replace the draws that the model and its losses make."""
    torch.rand = lambda *size, device=None, **_: steady(tuple(size))
    torch.rand_like = lambda like, **_: steady(tuple(like.shape))
    torch.randint_like = lambda like, low, high, **_: (low + steady(tuple(like.shape)) * high) // 1


def batch_of(task: str) -> list[dict]:
    """Two images of one size with as many objects each, of which not as many are things."""
    words = {"expressions": ["the red car"]} if task == "referring" else {"vocabulary": WORDS}
    labels = [[0], [0]] if task == "referring" else [[1, 0, 2], [1, 2, 3]]
    return [
        {"image": image(seed), "task": task, "instances": objects(labels[seed]), **words}
        for seed in range(2)
    ]


def gradients(model: torch.nn.Module, batch: list[dict]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    sum(model(batch).values()).backward()
    return {
        name.removeprefix("module."): torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def main() -> None:
    rank, meeting, output, *options = sys.argv[1:]
    torch.set_num_threads(1)
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.merge_from_file(str(HERE / "tiny.yaml"))
    cfg.merge_from_list([*options, "MODEL.HIPIE.LOSS.AVERAGE_NORMALIZERS", True])
    torch.manual_seed(0)
    model = wake(build_model(cfg)).train()
    fix_draws()
    tasks = ("detection", "parts", "referring")
    found = {"whole": {task: gradients(model, batch_of(task)) for task in tasks}}
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    comm.create_local_process_group(2)
    together = wrap_for_processes(model)
    own = slice(int(rank), int(rank) + 1)
    found["shared"] = {task: gradients(together, batch_of(task)[own]) for task in tasks}
    torch.save(found, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
