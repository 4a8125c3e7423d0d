"""Peak memory of a training step of HIPIE with and without activation checkpointing, on the CPU.

    python benchmarks/activation_memory.py [--config-file NAME] [--size HEIGHT WIDTH] [--images N]

The weights are random, the images noise with rectangles. Every arm recomputes one part
(`MODEL.ACTIVATION_CHECKPOINTING`), and the last one all of them. The peak is the allocator's, above
the memory in use before the step, from PyTorch's profiler, with the gradients of the parameters.
Times are of the same run and include the profiler.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)  # this folder has programs named like packages

from hipie import model_zoo
from hipie.vocabularies import Vocabulary

MIB = 2**20
PARTS = ("BACKBONE", "FUSION", "ENCODER", "DECODER")


def main() -> None:
    """Print peak and time of every arm, and the ratios to the first one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="nano/hipie_nano_picturebook.yaml")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 384), metavar="PIXELS")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--classes", type=int, default=20)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    arms = [(), *((part,) for part in PARTS), PARTS]
    first = None
    batch = training_batch(args.images, *args.size, args.classes)
    measure(model_zoo.get_config(args.config_file, ["MODEL.DEVICE", "cpu"]), (), batch)  # warm-up
    for parts in arms:
        cfg = model_zoo.get_config(args.config_file, ["MODEL.DEVICE", "cpu"])
        peak, seconds = measure(cfg, parts, batch)
        first = first or (peak, seconds)
        print(
            f"{'+'.join(parts).lower() or 'none':36} peak {peak / MIB:7.1f} MiB "
            f"({peak / first[0]:.2f})  {seconds:6.2f} s ({seconds / first[1]:.2f})",
            flush=True,
        )


def measure(cfg: CfgNode, parts: tuple[str, ...], batch: list[dict]) -> tuple[int, float]:
    """Peak bytes above those before a step, and its seconds."""
    for part in parts:
        cfg.MODEL.ACTIVATION_CHECKPOINTING[part] = True
    torch.manual_seed(0)
    model: nn.Module = build_model(cfg).train()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        start = time.perf_counter()
        sum(model(batch).values()).backward()
        seconds = time.perf_counter() - start
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    used = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        used += event.nbytes()
        peak = max(peak, used)
    return peak, seconds


def training_batch(images: int, height: int, width: int, classes: int) -> list[dict]:
    """Images of noise with four rectangles, of the task "detection"."""
    names = [f"class {index}" for index in range(classes)]
    vocabulary = Vocabulary.from_names(things=names[1:], stuff=names[:1])
    masks = torch.zeros(4, height, width, dtype=torch.bool)
    boxes = torch.zeros(4, 4)
    for i in range(4):
        top, left = 8 + i * height // 8, 8 + i * width // 8
        masks[i, top : top + height // 3, left : left + width // 3] = True
        boxes[i] = torch.tensor([left, top, left + width // 3, top + height // 3])
    instances = Instances((height, width))
    instances.gt_classes = torch.arange(4) % classes
    instances.gt_boxes = Boxes(boxes)
    instances.gt_masks = BitMasks(masks)
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": 255 * torch.rand(3, height, width, generator=generator),
            "task": "detection",
            "vocabulary": vocabulary,
            "instances": instances,
        }
        for _ in range(images)
    ]


if __name__ == "__main__":
    main()
