"""Speed of models of transformers with and without `hipie.ops.patch`, at random weights.

Each model runs forward on one image, alternately on its own grid sampling and on the operator,
within one run. Prints medians of float32, their ratio, and the largest relative difference of the
outputs in float64: in float32 rounding exchanges queries of nearly equal score in two-stage models.

    python benchmarks/patched_transformers.py [--models NAME ...] [--threads N] [--repeats N]
    python benchmarks/patched_transformers.py --repeats 0 --size 240 320    # differences only
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
import hipie.ops


def deformable_detr() -> nn.Module:
    """Deformable DETR with ResNet-50."""
    from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection

    return DeformableDetrForObjectDetection(DeformableDetrConfig(backbone_config=_resnet50()))


def _resnet50():
    from transformers import ResNetConfig

    return ResNetConfig(out_features=["stage2", "stage3", "stage4"])


def mask2former() -> nn.Module:
    """Mask2Former with Swin-T."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=swin_tiny()))


def swin_tiny() -> Any:
    """Swin-T as a backbone with four outputs."""
    from transformers import SwinConfig

    stages = ["stage1", "stage2", "stage3", "stage4"]
    return SwinConfig(depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], out_features=stages)


def oneformer() -> nn.Module:
    """OneFormer with Swin-T."""
    from transformers import OneFormerConfig, OneFormerForUniversalSegmentation

    return OneFormerForUniversalSegmentation(OneFormerConfig(backbone_config=swin_tiny()))


def grounding_dino() -> nn.Module:
    """GroundingDINO with Swin-T and BERT."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    swin = SwinConfig(
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        out_features=["stage2", "stage3", "stage4"],
    )
    return GroundingDinoForObjectDetection(GroundingDinoConfig(backbone_config=swin))


MODELS = {
    "deformable_detr": deformable_detr,
    "mask2former": mask2former,
    "oneformer": oneformer,
    "grounding_dino": grounding_dino,
}


def inputs(name: str, height: int, width: int) -> dict[str, Tensor]:
    """Build the inputs of a model: noise of one image, and a short text where it takes one."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"pixel_values": torch.randn((1, 3, height, width), generator=generator)}
    if name == "grounding_dino":
        ids = torch.tensor([[101, 4937, 1012, 3899, 1012, 102]])
        tensors |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "oneformer":
        tensors["task_inputs"] = torch.randint(0, 49000, (1, 77), generator=generator)
    return tensors


def outputs(model: nn.Module, arguments: dict[str, Tensor]) -> list[Tensor]:
    """Run a model; what is not finite in its outputs (masked logits) counts as zero."""
    with torch.no_grad():
        output = model(**arguments, return_dict=True)
    keys = ("logits", "pred_boxes", "class_queries_logits", "masks_queries_logits")
    return [torch.nan_to_num(output[key], 0.0, 0.0, 0.0) for key in keys if key in output]


def seconds(call: Callable[[], object]) -> float:
    """Measure a call once."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(name: str, repeats: int, height: int, width: int) -> str:
    """Return the line of the table of one model."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    arguments = inputs(name, height, width)
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats):
        times[False].append(seconds(lambda: outputs(model, arguments)))
        with hipie.ops.patch("transformers"):
            times[True].append(seconds(lambda: outputs(model, arguments)))
    cells = ["", "", ""]
    if repeats:
        before, after = (statistics.median(times[patched]) for patched in (False, True))
        cells = [f"{before:.2f}", f"{after:.2f}", f"{before / after:.2f}"]
    return f"| {name} | {' | '.join(cells)} | {difference(model.double(), arguments):.1e} |"


def difference(model: nn.Module, arguments: dict[str, Tensor]) -> float:
    """Return the largest difference of the outputs, relative to the largest, in float64."""
    exact = {
        key: item.double() if item.is_floating_point() else item for key, item in arguments.items()
    }
    plain = outputs(model, exact)
    with hipie.ops.patch("transformers"):
        served = outputs(model, exact)
    pairs = zip(plain, served, strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), metavar=("H", "W"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{hipie.ops.explain().implementation}, {options.threads} threads")
    print("| model | seconds | patched | times faster | largest relative difference |")
    print("|---|---|---|---|---|")
    for name in options.models:
        print(measure(name, options.repeats, *options.size), flush=True)


if __name__ == "__main__":
    main()
