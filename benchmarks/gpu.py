"""Measurements on one GPU, called by gpu.sh: operator, training and whole models.

    python benchmarks/gpu.py operator [--original FOLDER]
    python benchmarks/gpu.py training
    python benchmarks/gpu.py models [--models r50 vit_h]

`operator`: milliseconds forward, and forward and backward, against the grid-sample form and, where
`--original` names a checkout of Deformable-DETR or of a project with its operator that is built
(`python setup.py build_ext --inplace` in its `ops` folder), the original kernels; and the share of
the bandwidth of a copy that the least bytes of the forward pass (each tensor once) amount to.

`training`: losses of the first steps of the nano configurations (running medians, as the log has
them), with weights by one seed, on the device with SOLVER.AMP and on the CPU in float32, and their
relative difference.

`models`: seconds an image and peak memory of HIPIE in float32, bfloat16 and compiled.

`--device cpu` runs the same programs without a GPU, as a test of them. All weights are random and
images are noise or drawn pages; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(ROOT)
from benchmarks.ms_deform_attn import SHAPES, arguments, grid_sample_form
from hipie.ops import ms_deform_attn

COPIED_BYTES = 1 << 28
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
TRAINED = (
    "configs/nano/hipie_nano_picturebook.yaml",
    "projects/GRSer/configs/grser_nano_picturebook.yaml",
    "projects/ReferSAM/configs/refersam_nano_picturebook_128.yaml",
)
Operator = Callable[..., Tensor]


def milliseconds(call: Callable[[], object], device: str, repeats: int) -> float:
    """Median milliseconds of a call, after three that are not counted."""
    times = []
    for turn in range(repeats + 3):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        if turn >= 3:
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


def original_operator(folder: str) -> Operator:
    """The operator of a built checkout of Deformable-DETR.

    Args:
        folder: that holds the extension `MultiScaleDeformableAttention`.
    """
    candidates = sorted(Path(folder).rglob("MultiScaleDeformableAttention*.so"))
    if not candidates:
        raise SystemExit(f"{folder} has no built MultiScaleDeformableAttention extension")
    sys.path.insert(1, str(candidates[0].parent))
    extension = importlib.import_module("MultiScaleDeformableAttention")

    class Original(torch.autograd.Function):
        """Forward and backward of the extension, whose images are computed 64 at a time."""

        @staticmethod
        def forward(ctx, *tensors):
            ctx.save_for_backward(*tensors)
            return extension.ms_deform_attn_forward(*tensors, 64)

        @staticmethod
        def backward(ctx, gradient):
            value, locations, weights = extension.ms_deform_attn_backward(
                *ctx.saved_tensors, gradient.contiguous(), 64
            )
            return value, None, None, locations, weights

    return lambda *tensors: Original.apply(*tensors)


def measure_operator(options: argparse.Namespace) -> None:
    """Print the table of the operator."""
    operators: dict[str, Operator] = {"hipie": ms_deform_attn, "grid_sample": grid_sample_form}
    if options.original:
        operators["original"] = original_operator(options.original)
    bandwidth = copy_bandwidth(options)
    print(f"copy: {bandwidth / 1e9:.0f} GB/s")
    print("| shape | value | operator | forward, ms | both, ms | of a copy | difference |")
    print("|---|---|---|---|---|---|---|")
    for shape in options.shapes:
        plain = arguments(SHAPES[shape])
        exact = ms_deform_attn(*plain)
        for name, dtype in DTYPES.items():
            inputs = tuple(t.to(options.device) for t in (plain[0].to(dtype), *plain[1:]))
            for operator, function in operators.items():
                if operator == "original" and dtype != torch.float32:
                    continue  # it has no 16-bit kernels
                row = operator_row(function, inputs, options)
                output = function(*inputs).float().cpu()
                difference = float((output - exact).norm() / exact.norm())
                least = sum(t.nbytes for t in inputs) + exact.numel() * inputs[0].element_size()
                share = least / (row[0] / 1000) / bandwidth
                print(
                    f"| {shape} | {name} | {operator} | {row[0]:.3f} | {row[1]:.3f} | "
                    f"{100 * share:.0f} % | {difference:.1e} |"
                )


def operator_row(
    function: Operator, inputs: tuple[Tensor, ...], options: argparse.Namespace
) -> tuple[float, float]:
    """Milliseconds forward, and forward and backward."""
    value, shapes, starts, locations, weights = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    gradient = torch.ones_like(function(*inputs))

    def both() -> None:
        output = function(leaves[0], shapes, starts, *leaves[1:])
        torch.autograd.grad(output, leaves, gradient)

    def forward() -> None:
        with torch.no_grad():
            function(*inputs)

    return (
        milliseconds(forward, options.device, options.repeats),
        milliseconds(both, options.device, options.repeats),
    )


def copy_bandwidth(options: argparse.Namespace) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=options.device)
    target = torch.empty_like(source)
    duration = milliseconds(lambda: target.copy_(source), options.device, options.repeats)
    return 2 * COPIED_BYTES / (duration / 1000)


def measure_training(options: argparse.Namespace) -> None:
    """Print the losses of the device and of the CPU."""
    print("| configuration | step | CPU, float32 | device, AMP | relative difference |")
    print("|---|---|---|---|---|")
    for config in options.configs:
        with tempfile.TemporaryDirectory() as folder:
            runs = [
                losses(config, Path(folder) / name, device, amp, options)
                for name, device, amp in (("cpu", "cpu", False), ("device", options.device, True))
            ]
        for step, (expected, other) in enumerate(zip(*runs, strict=True)):
            difference = abs(other - expected) / abs(expected)
            print(f"| {config} | {step} | {expected:.4g} | {other:.4g} | {difference:.1e} |")


def losses(
    config: str, output: Path, device: str, amp: bool, options: argparse.Namespace
) -> list[float]:
    """Total losses of the first steps of a training."""
    command = [sys.executable, "train_net.py", "--config-file", config]
    command += ["MODEL.DEVICE", device, "SOLVER.AMP.ENABLED", str(amp)]
    command += ["SOLVER.MAX_ITER", str(options.steps), "OUTPUT_DIR", str(output), "SEED", "0"]
    command += ["PICTUREBOOK.TRAIN_PAGES", "40", "PICTUREBOOK.VAL_PAGES", "2"]
    command += ["TEST.EVAL_PERIOD", "1", "DATASETS.TEST", "()"]
    command += options.options
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    lines = (output / "metrics.json").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record["total_loss"] for record in records if "total_loss" in record]


def measure_models(options: argparse.Namespace) -> None:
    """Print seconds and memory of whole models."""
    from detectron2.modeling import build_model

    from benchmarks.hipie import image, vocabulary
    from hipie import model_zoo

    print("| model | variant | s an image | peak memory, GiB |\n|---|---|---|---|")
    for name in options.models:
        cfg = model_zoo.get_config(name)
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = options.device, ""
        for variant in ("float32", "bfloat16", "compiled"):
            torch.manual_seed(0)
            model = build_model(cfg).eval()
            if variant == "bfloat16":
                model.set_precision(variant)
            elif variant == "compiled":
                model.compile_inference()
            inputs = [{**image(options.size), "vocabulary": vocabulary(options.names)}]
            if options.device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            call = lambda model=model, inputs=inputs: model.inference(inputs)  # noqa: E731
            duration = milliseconds(call, options.device, options.repeats) / 1000
            peak = 0 if options.device == "cpu" else torch.cuda.max_memory_allocated() / 2**30
            print(f"| {name} | {variant} | {duration:.3f} | {peak:.2f} |", flush=True)
            del model


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("operator", "training", "models"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--original", default="", metavar="FOLDER")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES)[:3])
    parser.add_argument("--configs", nargs="+", default=TRAINED)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--models", nargs="+", default=["universal/hipie_r50.yaml", "universal/hipie_vit_h.yaml"]
    )
    parser.add_argument("--size", default="800x1066", help="HEIGHTxWIDTH")
    parser.add_argument("--names", type=int, default=133)
    parser.add_argument("options", nargs="*", help="KEY VALUE ... of the trainings")
    options = parser.parse_args()
    parts = {"operator": measure_operator, "training": measure_training, "models": measure_models}
    with torch.no_grad() if options.part == "models" else torch.enable_grad():
        parts[options.part](options)


if __name__ == "__main__":
    main()
