"""Seconds and memory of HIPIE and of the models that one would use instead, on one image.

    python benchmarks/peers.py [--models NAME ...] [--size 800x1066] [--threads 2] [--repeats 5]
                               [--precision float32 bfloat16] [--names 133]

Every model is a process of its own, with random weights, on the same image of noise; the processes
run in turns, one at a time, after a warm-up each. Rows have the median of the seconds from the
pixels to the segments with its range, the median of the ratios to the first model of the same
turn, and the largest resident memory of the process.

Random weights change little in the networks and more after them: the postprocessing of the
others drops nearly all segments, that of `hipie-*` keeps those that it would show. The boxes of
GroundingDINO that SAM turns into masks are `BOXES`, of fixed size. With "bfloat16" activations are
bfloat16 by autocast, or by the model's own option where it has one.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Boxes that prompt SAM, as many as a photograph has objects.
BOXES = 10
Job = Callable[[], Any]


def noise(options: argparse.Namespace) -> Any:
    """Image of noise, float32 [3, H, W] in 0..1."""
    import torch

    height, width = map(int, options.size.split("x"))
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def _autocast(options: argparse.Namespace) -> AbstractContextManager[Any]:
    import torch

    is_half = options.precision == "bfloat16"
    return torch.autocast("cpu", dtype=torch.bfloat16) if is_half else nullcontext()


def hipie(options: argparse.Namespace, config: str) -> Job:
    """HIPIE: panoptic map, instances and semantic map."""
    from detectron2.modeling import build_model

    from benchmarks.hipie import image, vocabulary
    from hipie import model_zoo

    cfg = model_zoo.get_config(config)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    model = build_model(cfg).eval()
    model.set_precision(options.precision)
    inputs = [{**image(options.size), "vocabulary": vocabulary(options.names)}]
    return lambda: model.inference(inputs)


def _transformers(options: argparse.Namespace, model: Any, processor: Any, **inputs: Any) -> Job:
    pixels = noise(options)[None]
    size = tuple(pixels.shape[-2:])
    model.eval()

    def run() -> Any:
        with _autocast(options):
            outputs = model(pixel_values=pixels, **inputs)
        return processor.post_process_panoptic_segmentation(outputs, target_sizes=[size])

    return run


def mask2former_r50(options: argparse.Namespace) -> Job:
    """Mask2Former of transformers with ResNet-50, to the panoptic map."""
    from transformers import ResNetConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    return _mask2former(options, ResNetConfig(out_features=stages))


def mask2former_swin_t(options: argparse.Namespace) -> Job:
    """Mask2Former of transformers with Swin-T, to the panoptic map."""
    from benchmarks.patched_transformers import swin_tiny

    return _mask2former(options, swin_tiny())


def _mask2former(options: argparse.Namespace, backbone: Any) -> Job:
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        Mask2FormerImageProcessor,
    )

    config = Mask2FormerConfig(backbone_config=backbone, num_labels=options.names)
    model = Mask2FormerForUniversalSegmentation(config)
    return _transformers(options, model, Mask2FormerImageProcessor())


def oneformer_swin_t(options: argparse.Namespace) -> Job:
    """OneFormer of transformers with Swin-T: network alone, with one task token."""
    import torch
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

    from benchmarks.patched_transformers import swin_tiny

    config = OneFormerConfig(backbone_config=swin_tiny(), num_labels=options.names)
    model = OneFormerForUniversalSegmentation(config).eval()
    task = torch.randint(0, 49000, (1, 77), generator=torch.Generator().manual_seed(0))
    pixels = noise(options)[None]

    def run() -> Any:
        with _autocast(options):
            return model(pixel_values=pixels, task_inputs=task)

    return run


def sam_vit_b(options: argparse.Namespace) -> Job:
    """SAM ViT-B: image encoder, and the masks of ten boxes."""
    import torch
    from segment_anything import SamPredictor, sam_model_registry

    predictor = SamPredictor(sam_model_registry["vit_b"]().eval())
    pixels = (255 * noise(options)).byte().permute(1, 2, 0).numpy()
    height, width = pixels.shape[:2]
    corners = torch.rand(BOXES, 2, generator=torch.Generator().manual_seed(1)) * 0.6
    boxes = torch.cat([corners, corners + 0.3], 1)
    boxes = boxes * torch.tensor([width, height, width, height], dtype=torch.float32)

    def run() -> Any:
        with _autocast(options):
            predictor.set_image(pixels)
            prompts = predictor.transform.apply_boxes_torch(boxes, (height, width))
            return predictor.predict_torch(None, None, boxes=prompts, multimask_output=False)

    return run


def grounding_dino_sam(options: argparse.Namespace) -> Job:
    """GroundingDINO-T of transformers with the names, then SAM ViT-B with ten boxes."""
    import torch

    from benchmarks.patched_transformers import grounding_dino

    model, masks = grounding_dino().eval(), sam_vit_b(options)
    # About two tokens a name and a full stop; the longest caption has 256 tokens.
    tokens = torch.randint(1000, 20000, (1, min(3 * options.names, 254)))
    tokens[:, 2::3] = 1012
    tokens = torch.cat([torch.tensor([[101]]), tokens, torch.tensor([[102]])], 1)
    captions = max(1, round(3 * options.names / 254))
    pixels = noise(options)[None]

    def run() -> Any:
        with _autocast(options):
            for _ in range(captions):
                model(pixel_values=pixels, input_ids=tokens, attention_mask=torch.ones_like(tokens))
        return masks()

    return run


def torchvision_mask_rcnn(options: argparse.Namespace) -> Job:
    """Mask R-CNN R50-FPN of torchvision."""
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    height, width = map(int, options.size.split("x"))
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=min(height, width), max_size=1333
    ).eval()
    pixels = noise(options)

    def run() -> Any:
        with _autocast(options):
            return model([pixels])

    return run


def detectron2_mask_rcnn(options: argparse.Namespace) -> Job:
    """Mask R-CNN R50-FPN of Detectron2's model zoo."""
    from detectron2 import model_zoo
    from detectron2.modeling import build_model

    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    model = build_model(cfg).eval()
    pixels = 255 * noise(options)
    height, width = pixels.shape[-2:]

    def run() -> Any:
        with _autocast(options):
            return model([{"image": pixels, "height": height, "width": width}])

    return run


MODELS: dict[str, Callable[[argparse.Namespace], Job]] = {
    "hipie-r50": lambda options: hipie(options, "universal/hipie_r50.yaml"),
    "hipie-nano-photos": lambda options: hipie(options, "nano/hipie_nano_photos.yaml"),
    "mask2former-r50": mask2former_r50,
    "mask2former-swin-t": mask2former_swin_t,
    "oneformer-swin-t": oneformer_swin_t,
    "grounding-dino-t+sam-vit-b": grounding_dino_sam,
    "sam-vit-b": sam_vit_b,
    "torchvision-mask-rcnn-r50": torchvision_mask_rcnn,
    "detectron2-mask-rcnn-r50": detectron2_mask_rcnn,
}


def serve(options: argparse.Namespace) -> None:
    """Build one model and run it once for every line of the standard input.

    Prints "ready" after the warm-up, the seconds of every run, and at the end the largest resident
    memory in MiB.
    """
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    with torch.no_grad():
        job = MODELS[options.models[0]](options)
        job()
        print("ready", file=answers)
        for _ in sys.stdin:
            start = time.perf_counter()
            job()
            print(time.perf_counter() - start, file=answers)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=answers)


class Process:
    """One model in a process of its own.

    Args:
        name: of the model.
        precision: "float32" or "bfloat16".
        options: of the command line.
    """

    def __init__(self, name: str, precision: str, options: argparse.Namespace) -> None:
        self.name, self.precision = name, precision
        arguments = ["--models", name, "--precision", precision, "--serve"]
        for option in ("size", "threads", "names"):
            arguments += [f"--{option}", str(getattr(options, option))]
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{self.name} failed")
        return line

    def seconds(self) -> float:
        """Run the model once."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return float(self._answer())

    def end(self) -> float:
        """End the process and return its largest resident memory in MiB."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        memory = float(self._answer())
        self._process.wait()
        return memory


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--size", default="800x1066", help="HEIGHTxWIDTH")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--names", type=int, default=133, help="class names, or outputs")
    parser.add_argument(
        "--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"]
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    # benchmarks/hipie.py must not shadow the package hipie.
    sys.path[0] = str(ROOT)
    if options.serve:
        options.precision = options.precision[0]
        serve(options)
        return
    processes = [
        Process(name, precision, options)
        for name in options.models
        for precision in options.precision
    ]
    times: list[list[float]] = [[] for _ in processes]
    for _ in range(options.repeats):
        for process, seconds in zip(processes, times, strict=True):
            seconds.append(process.seconds())
    print(f"{options.size}, {options.threads} threads, {options.names} names\n")
    print("| model | precision | s an image | times the first | MiB |\n|---|---|---|---|---|")
    for process, seconds in zip(processes, times, strict=True):
        ratio = statistics.median(a / b for a, b in zip(seconds, times[0], strict=True))
        middle, memory = statistics.median(seconds), process.end()
        spread = f"{middle:.2f} ({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"| {process.name} | {process.precision} | {spread} | {ratio:.2f} | {memory:,.0f} |")


if __name__ == "__main__":
    main()
