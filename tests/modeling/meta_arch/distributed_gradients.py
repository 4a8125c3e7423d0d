"""One of two processes that train on a batch: `... RANK RENDEZVOUS_FILE OUTPUT KEY VALUE...`.

Writes the gradients of the batch in one process ("single") and those averaged over both processes
with one image each ("distributed"), by task and parameter. Random numbers depend on all dimensions
of a tensor but the first, so that an image gets the same ones in any batch.
"""

from __future__ import annotations

import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))
warnings.simplefilter("ignore")

from detectron2.config import get_cfg  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from detectron2.structures import BitMasks, Boxes, Instances  # noqa: E402
from detectron2.utils import comm  # noqa: E402

from hipie import add_hipie_config  # noqa: E402
from hipie.engine.trainer import wrap_for_processes  # noqa: E402
from hipie.vocabularies import Vocabulary  # noqa: E402

HEIGHT, WIDTH = 64, 96
VOCABULARY = Vocabulary.from_names(things=["red car", "dog"], stuff=["grass", "open sky"])
TASKS = ("detection", "parts", "referring")


def deterministic_rand(shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers in 0..1 that are the same for every entry of the first dimension."""
    tail = shape[1:]
    count = max(1, int(torch.tensor(tail).prod()) if tail else 1)
    return (
        ((torch.arange(count).float() * 0.754877 + 0.13) % 1.0).reshape(tail).expand(shape).clone()
    )


def replace_random_numbers() -> None:
    """Replace the random functions that the model and its losses call."""
    torch.rand = lambda *size, device=None, **_: deterministic_rand(tuple(size))
    torch.rand_like = lambda like, **_: deterministic_rand(tuple(like.shape))
    torch.randint_like = lambda like, low, high, **_: (
        (low + deterministic_rand(tuple(like.shape)) * high) // 1
    )


def randomize_zero_heads(model: torch.nn.Module) -> torch.nn.Module:
    """Fill the layers that start at zero, so that every parameter has a gradient."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ("box" in name and "layers.2" in name) or "attention_weights" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def noise_image(seed: int) -> torch.Tensor:
    """Noise over a horizontal gradient, [3, H, W] in 0..255."""
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.linspace(0, 160, WIDTH).expand(3, HEIGHT, WIDTH)
    return gradient + 90 * torch.rand(3, HEIGHT, WIDTH, generator=generator)


def rectangles(classes: list[int]) -> Instances:
    """Rectangles of the given classes, side by side."""
    masks = torch.zeros(len(classes), HEIGHT, WIDTH, dtype=torch.bool)
    for i in range(len(classes)):
        masks[i, 8 + 4 * i : 40, 12 * i : 12 * i + 20] = True
    boxes = [[12 * i, 8 + 4 * i, 12 * i + 20, 40] for i in range(len(classes))]
    instances = Instances((HEIGHT, WIDTH))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    instances.gt_masks = BitMasks(masks)
    return instances


def batch_of(task: str) -> list[dict]:
    """Two inputs of one size with equally many objects, of which unequally many are things."""
    if task == "referring":
        prompt, classes = {"expressions": ["the red car"]}, [[0], [0]]
    else:
        prompt, classes = {"vocabulary": VOCABULARY}, [[1, 0, 2], [1, 2, 3]]
    images = [noise_image(seed) for seed in range(2)]
    return [
        {"image": image, "task": task, "instances": rectangles(of_image), **prompt}
        for image, of_image in zip(images, classes, strict=True)
    ]


def gradients(model: torch.nn.Module, batch: list[dict]) -> dict[str, torch.Tensor]:
    """Gradients of the summed losses by parameter name."""
    model.zero_grad()
    sum(model(batch).values()).backward()
    return {
        name.removeprefix("module."): torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def main() -> None:
    rank, rendezvous, output, *options = sys.argv[1:]
    torch.set_num_threads(1)
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.merge_from_file(str(ROOT / "tests/tiny.yaml"))
    cfg.merge_from_list([*options, "MODEL.HIPIE.LOSS.AVERAGE_NORMALIZERS", True])
    batches = {task: batch_of(task) for task in TASKS}
    torch.manual_seed(0)
    model = randomize_zero_heads(build_model(cfg)).train()
    replace_random_numbers()
    single = {task: gradients(model, batch) for task, batch in batches.items()}
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=int(rank),
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    comm.create_local_process_group(2)
    wrapped = wrap_for_processes(model)
    share = slice(int(rank), int(rank) + 1)
    distributed = {task: gradients(wrapped, batch[share]) for task, batch in batches.items()}
    torch.save({"single": single, "distributed": distributed}, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
