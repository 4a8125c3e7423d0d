"""Where does ReferSAM's time go, and what does its own way of computing save?

ViT-B at 512x512 on the CPU unless asked otherwise; weights are random and the image is noise, for
times do not depend on what is seen. Everything is measured in turns within one run, after a
warm-up, medians of several; ratios are what counts.

    python benchmarks/refersam.py sampling    the ten deformable attentions against grid-sample form
    python benchmarks/refersam.py profile     the network by part, the interactor by part; what
                                              folding the short side of an attention saves
    python benchmarks/refersam.py expressions   seven expressions on one image against one
    python benchmarks/refersam.py precision   bfloat16 (`TEST.BFLOAT16 True`) against float32
    python benchmarks/refersam.py memory      peak memory, of one expression and of seven
    python benchmarks/refersam.py all         all of them
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
FOLDING = "refersam.modeling.attention.Attention._should_fold"
EXPRESSIONS = [
    "the woman on the left",
    "the man in a blue shirt next to the window",
    "a dog",
    "the largest of the three red cars",
    "the cup that stands on the table",
    "a child with a kite",
    "the second bird from the right",
]
Timed = dict[str, tuple[nn.Module, ...]]


def build(options: argparse.Namespace) -> ReferSAM:
    """The published network with random weights."""
    torch.manual_seed(0)
    text = build_expression_encoder("bert-base-uncased", frozen=False, max_tokens=20)
    return ReferSAM(sam=options.sam, text_encoder=text, criterion=MaskCriterion()).eval()


def question(model: ReferSAM, options: argparse.Namespace, count: int) -> Callable[[], Tensor]:
    """A call that asks for so many expressions about one image of noise."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, options.size, options.size, generator=generator)
    read = model.text_encoder.tokenizer(EXPRESSIONS[:count], padding=True, return_tensors="pt")
    ids, mask = read["input_ids"], read["attention_mask"]
    rows = torch.zeros(count, dtype=torch.long)
    return lambda: model.mask_logits(image, ids, mask, image_of=rows)[0]


def medians(jobs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each job, run in turns after one warm-up each."""
    times: list[list[float]] = [[] for _ in jobs]
    for turn in range(repeats + 1):
        for job, seconds in zip(jobs, times, strict=True):
            start = time.perf_counter()
            job()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def grid_sample_form(value, shapes, starts, locations, weights) -> Tensor:
    """The operator as other packages compute it on the CPU."""
    return ms_deform_attn_grid_sample(value, shapes, locations, weights)


def sampling(model: ReferSAM, options: argparse.Namespace) -> None:
    """The operator's ten calls of one image, replayed both ways; then the whole network."""
    ask = question(model, options, 1)
    import hipie.ops.module

    ours = hipie.ops.module.ms_deform_attn
    calls: list[tuple] = []

    def record(*given: Tensor) -> Tensor:
        calls.append(given)
        return ours(*given)

    with mock.patch(OPERATOR, record):
        ask()

    def grid_network() -> Tensor:
        with mock.patch(OPERATOR, grid_sample_form):
            return ask()

    ten, ten_grid, whole, whole_grid = medians(
        [
            lambda: [ours(*given) for given in calls],
            lambda: [grid_sample_form(*given) for given in calls],
            ask,
            grid_network,
        ],
        options.repeats,
    )
    print(
        f"{len(calls)} deformable attentions together: grid-sample form {1e3 * ten_grid:.0f} ms, "
        f"ours {1e3 * ten:.0f} ms, {ten_grid / ten:.1f} times faster"
    )
    print(
        f"the whole network: {whole_grid:.2f} s and {whole:.2f} s, "
        f"{whole_grid / whole:.3f} times faster"
    )


def profile(model: ReferSAM, options: argparse.Namespace) -> None:
    """Seconds by part; then the network and the exchanges with and without folding."""
    ask = question(model, options, 1)
    for title, parts in (
        ("the network", network_parts(model)),
        ("the interactor", interactor_parts(model)),
    ):
        rows = []
        for turn in range(options.repeats + 1):
            with watched(model, parts) as watch:
                ask()
            if turn:
                rows.append(watch.seconds)
        names = sorted(rows[0], key=lambda name: -statistics.median(r[name] for r in rows))
        seconds = {name: statistics.median(row[name] for row in rows) for name in names}
        whole = sum(seconds.values())
        print(f"{title}, by part:")
        for name, spent in seconds.items():
            print(f"  {name:<34}{spent:>8.3f} s {spent / whole:>7.1%}")
    folded_or_not(model, options)


def folded_or_not(model: ReferSAM, options: argparse.Namespace) -> None:
    """The exchanges and the network, with every projection computed as it is written."""
    ask = question(model, options, 1)
    calls: list[tuple[nn.Module, tuple]] = []
    hooks = [
        one.register_forward_pre_hook(lambda module, given: calls.append((module, given)))
        for one in exchanges(model)
    ]
    ask()
    for hook in hooks:
        hook.remove()

    def all_exchanges() -> None:
        for module, given in calls:
            module(*given)

    def as_written(job: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            with mock.patch(FOLDING, lambda *_: False):
                return job()

        return run

    plain, ours, whole_plain, whole = medians(
        [as_written(all_exchanges), all_exchanges, as_written(ask), ask], options.repeats
    )
    print(
        f"exchanges of words and maps: every projection computed {plain:.3f} s, short sides folded "
        f"{ours:.3f} s, {plain / ours:.2f} times faster; the network {whole_plain:.2f} s and "
        f"{whole:.2f} s, {whole_plain / whole:.2f} times faster"
    )


def expressions(model: ReferSAM, options: argparse.Namespace) -> None:
    """Seven expressions about one image in one call against one."""
    one, seven = medians(
        [question(model, options, 1), question(model, options, len(EXPRESSIONS))], options.repeats
    )
    print(
        f"one expression {one:.2f} s, {len(EXPRESSIONS)} on the same image {seven:.2f} s: "
        f"{seven / one:.2f} times"
    )


def precision(model: ReferSAM, options: argparse.Namespace) -> None:
    """The network under autocast to bfloat16, as `TEST.BFLOAT16` has it, against float32."""
    ask = question(model, options, 1)

    def short() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ask()

    plain, brief = medians([ask, short], options.repeats)
    same = ((ask() >= 0) == (short() >= 0)).float().mean()
    print(
        f"float32 {plain:.2f} s, bfloat16 {brief:.2f} s, {plain / brief:.2f} times faster; "
        f"{same:.2%} of the mask's pixels are the same"
    )


def memory(model: ReferSAM, options: argparse.Namespace) -> None:
    """Peak memory, of one expression and of seven, each in a process of its own."""
    for count in (1, len(EXPRESSIONS)):
        command = [*(sys.executable, __file__, "resident"), "--count", str(count)]
        command += ["--sam", options.sam, "--size", str(options.size)]
        command += ["--threads", str(options.threads)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(answer.splitlines()[-1])
        print(
            f"{count} expression(s): peak memory of the process {found['peak'] / 2**20:.2f} GiB, of "
            f"which {found['loaded'] / 2**20:.2f} GiB are the loaded model"
        )


def resident(model: ReferSAM, options: argparse.Namespace) -> None:
    """One call in this process; prints kilobytes before it and at most (Linux only)."""
    loaded = status("VmRSS")
    question(model, options, options.count)()
    print(json.dumps({"loaded": loaded, "peak": status("VmHWM")}))


def status(kind: str) -> int:
    """Kilobytes of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1])


def exchanges(model: ReferSAM) -> list[nn.Module]:
    """All layers between words and maps."""
    return [pair.exchange for one in model.interactor.interactions for pair in one.pairs]


def network_parts(model: ReferSAM) -> Timed:
    """The modules of every part; what is in none of them is the interactor's, or "rest"."""
    encoder = model.image_encoder
    return {
        "text encoder": (model.text_encoder.model,),
        "SAM's image encoder": (encoder.patch_embed, *encoder.blocks, encoder.neck),
        "interactor": (model.interactor,),
        "projections, map at 1/4": (*model.projections.levels, model.projections.out),
        "prompter": (model.prompter,),
        "SAM's mask decoder": (model.mask_decoder.transformer, model.mask_decoder.output_upscaling),
    }


def interactor_parts(model: ReferSAM) -> Timed:
    """The modules of every part of the interactor; SAM's blocks are left out of it."""
    found: Timed = {
        "spatial prior": (model.interactor.spatial_prior,),
        "injectors": tuple(one.injector for one in model.interactor.interactions),
        "extractors": tuple(
            pair.extractor for one in model.interactor.interactions for pair in one.pairs
        ),
    }
    layers = exchanges(model)
    for part in ("text_self", "text_to_vision", "text_mlp", "vision_to_text", "vision_mlp"):
        found[f"exchange: {part}"] = tuple(getattr(one, part) for one in layers)
    found["exchange: norms and sums"] = tuple(layers)
    return found


@contextmanager
def watched(model: ReferSAM, parts: Timed) -> Iterator[Stopwatch]:
    """Time by part while this is open; a module inside another is counted once."""
    watch = Stopwatch()
    with ExitStack() as stack:
        for name, modules in parts.items():
            for module in modules:
                timed = watch.timed(name, module.forward)
                stack.enter_context(mock.patch.object(module, "forward", timed))
        yield watch


def main() -> None:
    """Read the command line and measure."""
    questions = {
        one.__name__: one for one in (sampling, profile, expressions, precision, memory, resident)
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", nargs="?", default="all", choices=[*questions, "all"])
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
    chosen = [sampling, profile, expressions, precision, memory]
    with torch.no_grad():
        model = build(options)
        for ask in chosen if options.question == "all" else [questions[options.question]]:
            ask(model, options)


if __name__ == "__main__":
    main()
