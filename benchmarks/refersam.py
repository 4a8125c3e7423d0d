"""Time and memory of ReferSAM by module, and the speed of its implementation.

ViT-B at 512x512 on the CPU by default, with random weights and an image of noise. Alternatives are
measured alternately in one process after a warm-up; results are medians, and ratios are more
reliable than seconds.

    python benchmarks/refersam.py sampling      deformable attention against grid sampling
    python benchmarks/refersam.py profile       time by module, and the effect of folding the short
                                                side of an attention
    python benchmarks/refersam.py expressions   seven expressions on one image against one
    python benchmarks/refersam.py precision     `MODEL.PRECISION bfloat16` against float32
    python benchmarks/refersam.py memory        peak memory with one and with seven expressions
    python benchmarks/refersam.py all           all of them
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.hipie_stages import Stopwatch
from hipie.engine.malloc import keep_freed_memory
from hipie.ops.grid_sample import ms_deform_attn_grid_sample
from refersam import ReferSAM
from refersam.modeling.criterion import MaskCriterion
from refersam.modeling.text import build_expression_encoder

OPERATOR = "hipie.ops.module.ms_deform_attn"
SHOULD_FOLD = "refersam.modeling.attention.Attention._should_fold"
EXPRESSIONS = [
    "the woman on the left",
    "the man in a blue shirt next to the window",
    "a dog",
    "the largest of the three red cars",
    "the cup that stands on the table",
    "a child with a kite",
    "the second bird from the right",
]
TimedModules = dict[str, tuple[nn.Module, ...]]


def build(options: argparse.Namespace) -> ReferSAM:
    """Build the published network with random weights."""
    torch.manual_seed(0)
    text = build_expression_encoder("bert-base-uncased", frozen=False, max_tokens=20)
    return ReferSAM(sam=options.sam, text_encoder=text, criterion=MaskCriterion()).eval()


def forward_call(model: ReferSAM, options: argparse.Namespace, count: int) -> Callable[[], Tensor]:
    """Build a call of the model with `count` expressions about one image of noise."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, options.size, options.size, generator=generator)
    tokens = model.text_encoder.tokenizer(EXPRESSIONS[:count], padding=True, return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    rows = torch.zeros(count, dtype=torch.long)
    return lambda: model.mask_logits(image, ids, mask, image_of=rows)[0]


def medians(calls: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each call, run alternately after one warm-up each."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, seconds in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if repeat:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def grid_sample_attention(value, shapes, starts, locations, weights) -> Tensor:
    """Compute the operator by grid sampling, as other packages do on the CPU."""
    return ms_deform_attn_grid_sample(value, shapes, locations, weights)


def sampling(model: ReferSAM, options: argparse.Namespace) -> None:
    """Compare the ten calls of the operator for one image, and the network, with grid sampling."""
    call = forward_call(model, options, 1)
    import hipie.ops.module

    operator = hipie.ops.module.ms_deform_attn
    calls: list[tuple] = []

    def record(*arguments: Tensor) -> Tensor:
        calls.append(arguments)
        return operator(*arguments)

    with mock.patch(OPERATOR, record):
        call()

    def grid_network() -> Tensor:
        with mock.patch(OPERATOR, grid_sample_attention):
            return call()

    ten, ten_grid, network, network_grid = medians(
        [
            lambda: [operator(*arguments) for arguments in calls],
            lambda: [grid_sample_attention(*arguments) for arguments in calls],
            call,
            grid_network,
        ],
        options.repeats,
    )
    print(
        f"{len(calls)} deformable attentions: grid sampling {1e3 * ten_grid:.0f} ms, "
        f"hipie.ops {1e3 * ten:.0f} ms, {ten_grid / ten:.1f} times faster"
    )
    print(
        f"the network: {network_grid:.2f} s and {network:.2f} s, "
        f"{network_grid / network:.3f} times faster"
    )


def profile(model: ReferSAM, options: argparse.Namespace) -> None:
    """Print seconds by module, then the effect of folding."""
    call = forward_call(model, options, 1)
    for title, parts in (
        ("the network", network_parts(model)),
        ("the interactor", interactor_parts(model)),
    ):
        rows = []
        for repeat in range(options.repeats + 1):
            with timed_modules(model, parts) as stopwatch:
                call()
            if repeat:
                rows.append(stopwatch.seconds)
        names = sorted(rows[0], key=lambda name: -statistics.median(r[name] for r in rows))
        seconds = {name: statistics.median(row[name] for row in rows) for name in names}
        total = sum(seconds.values())
        print(f"{title}, by module:")
        for name, spent in seconds.items():
            print(f"  {name:<34}{spent:>8.3f} s {spent / total:>7.1%}")
    compare_folding(model, options)


def compare_folding(model: ReferSAM, options: argparse.Namespace) -> None:
    """Compare fusion layers and network with and without folded projections."""
    call = forward_call(model, options, 1)
    calls: list[tuple[nn.Module, tuple]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda module, arguments: calls.append((module, arguments)))
        for layer in fusion_layers(model)
    ]
    call()
    for hook in hooks:
        hook.remove()

    def run_fusion_layers() -> None:
        for module, arguments in calls:
            module(*arguments)

    def without_folding(function: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            with mock.patch(SHOULD_FOLD, lambda *_: False):
                return function()

        return run

    plain, folded, network_plain, network = medians(
        [without_folding(run_fusion_layers), run_fusion_layers, without_folding(call), call],
        options.repeats,
    )
    print(
        f"fusion layers: without folding {plain:.3f} s, with folding {folded:.3f} s, "
        f"{plain / folded:.2f} times faster; the network {network_plain:.2f} s and "
        f"{network:.2f} s, {network_plain / network:.2f} times faster"
    )


def expressions(model: ReferSAM, options: argparse.Namespace) -> None:
    """Compare seven expressions about one image in one call with one expression."""
    single, several = medians(
        [forward_call(model, options, 1), forward_call(model, options, len(EXPRESSIONS))],
        options.repeats,
    )
    print(
        f"one expression {single:.2f} s, {len(EXPRESSIONS)} on the same image {several:.2f} s: "
        f"{several / single:.2f} times"
    )


def precision(model: ReferSAM, options: argparse.Namespace) -> None:
    """Compare autocast to bfloat16, as with `MODEL.PRECISION bfloat16`, with float32."""
    call = forward_call(model, options, 1)

    def bfloat16_call() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return call()

    float32, bfloat16 = medians([call, bfloat16_call], options.repeats)
    same = ((call() >= 0) == (bfloat16_call() >= 0)).float().mean()
    print(
        f"float32 {float32:.2f} s, bfloat16 {bfloat16:.2f} s, "
        f"{float32 / bfloat16:.2f} times faster; "
        f"{same:.2%} of the mask's pixels are equal"
    )


def memory(model: ReferSAM, options: argparse.Namespace) -> None:
    """Print the peak memory of one expression and of seven, each in a separate process."""
    for count in (1, len(EXPRESSIONS)):
        command = [*(sys.executable, __file__, "resident"), "--count", str(count)]
        command += ["--sam", options.sam, "--size", str(options.size)]
        command += ["--threads", str(options.threads)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        result = json.loads(output.splitlines()[-1])
        print(
            f"{count} expression(s): peak memory of the process {result['peak'] / 2**20:.2f} GiB, "
            f"of which {result['loaded'] / 2**20:.2f} GiB are the loaded model"
        )


def resident(model: ReferSAM, options: argparse.Namespace) -> None:
    """Run one call and print the memory before it and the peak in kilobytes (Linux only)."""
    loaded = status("VmRSS")
    forward_call(model, options, options.count)()
    print(json.dumps({"loaded": loaded, "peak": status("VmHWM")}))


def status(kind: str) -> int:
    """Return a memory size of this process in KiB, by its name in /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])


def fusion_layers(model: ReferSAM) -> list[nn.Module]:
    """Return all vision-language fusion layers."""
    return [pair.exchange for block in model.interactor.interactions for pair in block.pairs]


def network_parts(model: ReferSAM) -> TimedModules:
    """Return modules by name; the time of a module excludes that of modules inside it."""
    encoder = model.image_encoder
    return {
        "text encoder": (model.text_encoder.model,),
        "SAM's image encoder": (encoder.patch_embed, *encoder.blocks, encoder.neck),
        "interactor": (model.interactor,),
        "projections, map at 1/4": (*model.projections.levels, model.projections.out),
        "prompter": (model.prompter,),
        "SAM's mask decoder": (model.mask_decoder.transformer, model.mask_decoder.output_upscaling),
    }


def interactor_parts(model: ReferSAM) -> TimedModules:
    """Return the modules of the interactor by name, without SAM's blocks."""
    modules: TimedModules = {
        "spatial prior": (model.interactor.spatial_prior,),
        "injectors": tuple(block.injector for block in model.interactor.interactions),
        "extractors": tuple(
            pair.extractor for block in model.interactor.interactions for pair in block.pairs
        ),
    }
    layers = fusion_layers(model)
    for part in ("text_self", "text_to_vision", "text_mlp", "vision_to_text", "vision_mlp"):
        modules[f"fusion: {part}"] = tuple(getattr(layer, part) for layer in layers)
    modules["fusion: norms and sums"] = tuple(layers)
    return modules


@contextmanager
def timed_modules(model: ReferSAM, parts: TimedModules) -> Iterator[Stopwatch]:
    """Measure the time of modules in a context, without that of modules inside them."""
    stopwatch = Stopwatch()
    with ExitStack() as stack:
        for name, modules in parts.items():
            for module in modules:
                timed = stopwatch.timed(name, module.forward)
                stack.enter_context(mock.patch.object(module, "forward", timed))
        yield stopwatch


def main() -> None:
    """Read the command line and measure."""
    measurements = {
        function.__name__: function
        for function in (sampling, profile, expressions, precision, memory, resident)
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measurement", nargs="?", default="all", choices=[*measurements, "all"])
    parser.add_argument("--sam", default="vit_b", choices=["vit_t", "vit_b", "vit_l", "vit_h"])
    parser.add_argument("--size", type=int, default=512, help="side of the image, pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--count", type=int, default=1, help="expressions of `resident`")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    kind = torch.backends.cpu.get_cpu_capability()
    print(f"{options.threads} threads, PyTorch {torch.__version__}, {kind}")
    print(f"{options.sam} at {options.size}x{options.size}")
    selected = [sampling, profile, expressions, precision, memory]
    if options.measurement != "all":
        selected = [measurements[options.measurement]]
    with torch.no_grad():
        model = build(options)
        for measure in selected:
            measure(model, options)


if __name__ == "__main__":
    main()
