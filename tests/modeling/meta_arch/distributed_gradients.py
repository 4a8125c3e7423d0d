"""One of several processes that train on a batch.

`distributed_gradients.py RANK WORLD_SIZE RENDEZVOUS_FILE OUTPUT LABELS KEY VALUE...` writes losses
and gradients of every case of `CASES`, or with LABELS "weak" of `WEAK_CASES`: in one process with
all images ("single"), and in `WORLD_SIZE` processes with one image each ("distributed"). Random
numbers depend on all dimensions of a tensor but the first, so that an image gets the same ones in
any batch.
"""

from __future__ import annotations

import sys
import warnings
from contextlib import nullcontext
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
from hipie.engine.accumulation import accumulate_gradients, split_batch  # noqa: E402
from hipie.engine.trainer import wrap_for_processes  # noqa: E402
from hipie.structures import BOX, POINTS, SCRIBBLE  # noqa: E402
from hipie.vocabularies import Vocabulary  # noqa: E402

HEIGHT, WIDTH = 64, 96
VOCABULARY = Vocabulary.from_names(things=["red car", "dog"], stuff=["grass", "open sky"])
MANY = [i % 4 for i in range(30)]
# Task and the classes of every image (0 and 1 are things, 2 and 3 stuff), by number of processes.
CASES = {
    2: {
        "detection": ("detection", [[1, 0, 2], [1, 2, 3]]),
        "parts": ("parts", [[1, 0, 2], [1, 2, 3]]),
        "referring": ("referring", [[0], [0]]),
        "empty and full": ("detection", [[], [1, 0, 2]]),
        "all empty": ("detection", [[], []]),
        "only stuff and only things": ("detection", [[2, 3], [0, 1, 1]]),
        "only stuff in all": ("detection", [[2, 3], [3]]),
        "1 object in all": ("detection", [[], [3]]),
        "1 and 30 objects": ("detection", [[0], MANY]),
        "parts of an empty image": ("parts", [[1, 0, 2], []]),
        "expression about nothing": ("referring", [[0], []]),
    },
    3: {
        "detection": ("detection", [[1, 0, 2], [0], [1, 2, 3]]),
        "empty, stuff and 30 objects": ("detection", [[], [2], MANY]),
        "expressions about nothing": ("referring", [[], [0], []]),
    },
}
# The same with two images a process, in two micro-batches.
ACCUMULATED_CASES = {
    2: {"accumulated": ("detection", [[1, 0, 2], [], [2], [0, 1, 1]])},
    3: {},
}
# Task, classes, and what is annotated of the images of both processes.
WEAK_CASES = {
    "boxes": ("detection", [[1, 0, 2], [1, 2, 3]], "boxes"),
    "boxes of 1 and 9 objects": ("detection", [[0], MANY[:9]], "boxes"),
    "boxes of an empty image": ("detection", [[], [1, 0, 2]], "boxes"),
    "points": ("detection", [[1, 0, 2], [1, 3]], "points"),
    "scribbles": ("detection", [[1, 0, 2], [1, 3]], "scribbles"),
    "scribbles of an empty image": ("detection", [[1, 0, 2], []], "scribbles"),
    "tags": ("detection", [[1, 0, 2], [3]], "tags"),
    "tags of an empty image": ("detection", [[1, 0, 2], []], "tags"),
}


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
    """Rectangles of the given classes, seven a row, the next row shifted down."""
    masks = torch.zeros(len(classes), HEIGHT, WIDTH, dtype=torch.bool)
    boxes = torch.zeros(len(classes), 4)
    for i in range(len(classes)):
        row, column = divmod(i, 7)
        left, top, bottom = 12 * column, 8 + 4 * column + 3 * row, 40 + 3 * row
        masks[i, top:bottom, left : left + 20] = True
        boxes[i] = torch.tensor([left, top, left + 20, bottom])
    instances = Instances((HEIGHT, WIDTH))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_boxes = Boxes(boxes)
    instances.gt_masks = BitMasks(masks)
    return instances


def labelled_pixels(instances: Instances, beside: bool) -> torch.Tensor:
    """Points [N, 6, 3] in the boxes, and with `beside` every other one left or right of them."""
    points = torch.zeros(len(instances), 6, 3)
    left, top, right, bottom = instances.gt_boxes.tensor.unbind(1)
    for i in range(6):
        share = (i + 0.5) / 6
        points[:, i, 0] = left + share * (right - left)
        points[:, i, 1] = top + share * (bottom - top)
        points[:, i, 2] = 1
        if beside and i % 2:
            points[:, i, 0] = (left + WIDTH / 2) % WIDTH
            points[:, i, 2] = 0
    return points


def with_weak_labels(item: dict, kind: str) -> dict:
    """An input of `batch_of` of which only boxes, points, scribbles or tags are known."""
    item = {**item, "image": 0.1 * item["image"]}  # colours similar enough for pairwise losses
    instances = item["instances"]
    if kind == "tags":
        return {**item, "tags": instances.gt_classes.unique(), "instances": instances[:0]}
    code = {"boxes": BOX, "points": POINTS, "scribbles": SCRIBBLE}[kind]
    instances.gt_supervision = torch.full((len(instances),), code)
    if kind != "boxes":
        instances.gt_points = labelled_pixels(instances, beside=kind == "points")
    return item


def batch_of(task: str, classes: list[list[int]], kind: str = "masks") -> list[dict]:
    """Inputs of one size with objects of the given classes in every image."""
    prompt: dict = {"vocabulary": VOCABULARY}
    if task == "referring":
        prompt = {"expressions": ["the red car"]}
    batch = [
        {"image": noise_image(i), "task": task, "instances": rectangles(of_image), **prompt}
        for i, of_image in enumerate(classes)
    ]
    return batch if kind == "masks" else [with_weak_labels(item, kind) for item in batch]


def train_on(
    model: torch.nn.Module, batch: list[dict], steps: int = 1
) -> dict[str, dict[str, torch.Tensor | None]]:
    """Losses by name, in order, and the gradients of their sum by parameter."""
    model.zero_grad()
    losses = accumulate_gradients(
        model,
        split_batch(batch, steps),
        lambda loss: loss.backward(),
        before_forward=lambda _: nullcontext(),
    )
    gradients = {
        name.removeprefix("module."): None if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    return {"losses": {k: v.detach() for k, v in losses.items()}, "gradients": gradients}


def main() -> None:
    rank, world_size, rendezvous, output, labels, *options = sys.argv[1:]
    cases, accumulated = CASES[int(world_size)], ACCUMULATED_CASES[int(world_size)]
    if labels == "weak":
        cases, accumulated = WEAK_CASES, {}
    torch.set_num_threads(1)
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.merge_from_file(str(ROOT / "tests/tiny.yaml"))
    cfg.merge_from_list(options)
    batches = {name: batch_of(*case) for name, case in (cases | accumulated).items()}
    torch.manual_seed(0)
    model = randomize_zero_heads(build_model(cfg)).train()
    replace_random_numbers()
    single = {name: train_on(model, batch) for name, batch in batches.items()}
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=int(rank),
        world_size=int(world_size),
        timeout=timedelta(seconds=600),
    )
    comm.create_local_process_group(int(world_size))
    wrapped = wrap_for_processes(model)
    share = slice(int(rank), int(rank) + 1)
    distributed = {name: train_on(wrapped, batches[name][share]) for name in cases}
    share = slice(2 * int(rank), 2 * int(rank) + 2)
    distributed |= {name: train_on(wrapped, batches[name][share], 2) for name in accumulated}
    # Names of losses depend on the task, and on the kind of the labels.
    tasks = {name: (case[0], *case[2:]) for name, case in (cases | accumulated).items()}
    torch.save({"single": single, "distributed": distributed, "tasks": tasks}, output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
