"""What a training step of HIPIE costs: operators, waiting for the device, and time.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --config universal/hipie_r50.yaml --size 480 640 --repeats 0

Operators and waits are those of one forward pass of two images on a device that is simulated on the
CPU (`tests/simulated_device.py`); as by `torch.cuda.set_sync_debug_mode`, blocking copies from the
host count too. Time is that of this process alone for forward and backward on the CPU, one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from statistics import median

import torch

# Programs of this folder have the names of packages.
sys.path[0] = str(Path(__file__).parents[1])

TASKS = ("detection", "parts", "referring")
THINGS = ("person", "dog", "car", "house")
STUFF = ("sky", "grass", "road", "water")
PARTS = {"person": ("head", "arm"), "car": ("wheel",)}


def training_input(task: str, size: tuple[int, int], objects: int, seed: int) -> dict:
    """An image of noise with rectangles as objects."""
    from detectron2.structures import BitMasks, Boxes, Instances

    from hipie.vocabularies.vocabulary import Vocabulary

    vocabulary = Vocabulary.from_names(
        things=THINGS, stuff=STUFF, parts=PARTS if task == "parts" else {}
    )
    expressions = ["the dog on the left", "a small red car"]
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    masks = torch.zeros(objects, height, width, dtype=torch.bool)
    boxes = torch.zeros(objects, 4)
    for i in range(objects):
        top = int(torch.randint(0, height // 2, (1,), generator=generator))
        left = int(torch.randint(0, width // 2, (1,), generator=generator))
        bottom, right = top + height // (3 + i % 3), left + width // (3 + i % 4)
        masks[i, top:bottom, left:right] = True
        boxes[i] = torch.tensor([left, top, right, bottom])
    classes = len(expressions) if task == "referring" else len(vocabulary)
    instances = Instances(size)
    instances.gt_classes = torch.arange(objects) % classes
    instances.gt_boxes = Boxes(boxes)
    instances.gt_masks = BitMasks(masks)
    text = {"expressions": expressions} if task == "referring" else {"vocabulary": vocabulary}
    image = 255 * torch.rand(3, height, width, generator=generator)
    return {"image": image, "task": task, "instances": instances, **text}


def main() -> None:
    """Print one line a task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="nano/hipie_nano_picturebook.yaml")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 400))
    parser.add_argument("--objects", type=int, default=10, help="an image")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps a task")
    parser.add_argument("--where", action="store_true", help="print where the host waits")
    parser.add_argument("options", nargs="*", help="KEY VALUE ... of the configuration")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from detectron2.modeling import build_model

    from hipie import model_zoo
    from tests.simulated_device import SimulatedDevice, to_device

    options = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *arguments.options]
    torch.manual_seed(0)
    model = build_model(model_zoo.get_config(arguments.config, options)).train()
    batches = {
        task: [
            training_input(task, tuple(arguments.size), arguments.objects, seed)
            for seed in range(2)
        ]
        for task in TASKS
    }
    seconds = {}
    for task, batch in batches.items():
        times = []
        for _ in range(arguments.repeats + 1):
            start = time.process_time()
            sum(model(batch).values()).backward()
            times.append(time.process_time() - start)
            model.zero_grad()
        seconds[task] = median(times[1:] or times)
    to_device(model)
    print(f"{arguments.config}, 2 images of {arguments.size[0]}x{arguments.size[1]}")
    print("| task | operators | waits | s a step |\n|---|---|---|---|")
    for task, batch in batches.items():
        with SimulatedDevice() as device:
            model(batch)
            device.reset()
            model(batch)
        operators, waits = sum(device.operators.values()), sum(device.waits.values())
        print(f"| {task} | {operators} | {waits} | {seconds[task]:.2f} |")
        if arguments.where:
            print(device.report())


if __name__ == "__main__":
    main()
