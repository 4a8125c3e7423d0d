"""Run time of CLIP and SAM beside HIPIE, and of very large vocabularies.

Times are medians of alternating calls within one run, after a warm-up; weights and images are
random, on which times do not depend. Every line ends with a ratio.

    python benchmarks/open_vocabulary.py masks    100 masks of an image against one, and crops
    python benchmarks/open_vocabulary.py names    classification by CLIP into 10,000 classes against
                                                  100, with cached text features
    python benchmarks/open_vocabulary.py prompts  64 prompts to SAM on one image
    python benchmarks/open_vocabulary.py fusion   early fusion of many tokens in chunks
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice, product
from pathlib import Path

import torch

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie.modeling.fusion.bidirectional_attention import BidirectionalFusion
from hipie.modeling.fusion.chunked import fuse_in_chunks
from hipie.modeling.open_vocabulary.clip import Clip, mask_crops
from hipie.modeling.open_vocabulary.clip_ensemble import ClassPrompts, ClipMaskScores, ScoreEnsemble
from hipie.modeling.sam.predictor import Sam

SYLLABLES = ("ba", "co", "du", "fe", "gi", "la", "mo", "nu", "pe", "ri")
MEBIBYTE = 2**20


def medians(jobs: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Measure median seconds of each job, run alternately after a warm-up each."""
    times: list[list[float]] = [[] for _ in jobs]
    for turn in range(repeats + 1):
        for job, seconds in zip(jobs, times, strict=True):
            start = time.perf_counter()
            job()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def noise(*size: int, seed: int = 0) -> torch.Tensor:
    """Sample uniform numbers in 0..1."""
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def random_masks(count: int, side: int = 224) -> torch.Tensor:
    """Draw [count, side, side] mask logits of random rectangles."""
    corner = (noise(count, 2, seed=1) * side * 0.7).long()
    size = (noise(count, 2, seed=2) * side * 0.3).long() + 8
    masks = torch.full((count, side, side), -6.0)
    for mask, (y, x), (high, wide) in zip(masks, corner.tolist(), size.tolist(), strict=True):
        mask[y : y + high, x : x + wide] = 6.0
    return masks


def masks(options: argparse.Namespace) -> dict[str, float]:
    """Compare all masks in one pass, a single mask, and one crop a mask."""
    clip, image, many = (
        Clip.from_source(options.clip),
        noise(3, 480, 640),
        random_masks(options.masks),
    )
    binary = torch.nn.functional.interpolate(many[:, None], (480, 640))[:, 0] > 0

    def in_one_pass(count: int) -> torch.Tensor:
        return clip.mask_features(image, binary[:count])

    def cropped() -> torch.Tensor:
        parts = mask_crops(image, binary[: options.single], clip.image_size, 32)
        return torch.cat([clip.image_features(part) for part in parts])

    single, batch, crops = medians(
        [lambda: in_one_pass(1), lambda: in_one_pass(options.masks), cropped], options.repeats
    )
    crops *= options.masks / min(options.single, options.masks)
    print(
        f"{options.clip}: 1 mask {single:.3f} s, {options.masks} masks {batch:.3f} s "
        f"({batch / single:.2f} times), {options.masks} crops {crops:.3f} s "
        f"({crops / batch:.1f} times the single pass)"
    )
    return {"masks": batch / single, "crops": crops / batch}


def synthetic_names(count: int) -> list[str]:
    """Build `count` different names of two words."""
    words = ["".join(parts) for parts in product(SYLLABLES, repeat=3)]
    return [f"{first} {second}" for first, second in islice(product(words, words), count)]


def names(options: argparse.Namespace) -> dict[str, float]:
    """Compare classification of an image's masks into few and many classes with cached texts.

    Encoding 10,000 texts takes the text encoder minutes on one core. It is measured with the few
    names, and the many are encoded without the encoder's blocks: with random weights the features
    are noise of the same length in both cases.
    """
    clip, image, logits = (
        Clip.from_source(options.clip),
        noise(3, 480, 640),
        random_masks(options.masks),
    )
    few, many = (synthetic_names(count) for count in (options.few, options.many))
    start = time.perf_counter()
    clip.text_features(few)
    once = (time.perf_counter() - start) / len(few)
    clip.model.transformer.resblocks = torch.nn.ModuleList()
    clip.text_features(many)

    def classify(class_names: list[str]) -> None:
        count = len(class_names)
        prompts = tuple((name,) for name in class_names)
        classes = ClassPrompts(prompts, (False,) * count, (True,) * count)
        scores = ClipMaskScores(clip, image, classes, ScoreEnsemble())
        class_logits, iou_logits = torch.zeros(len(logits), count), torch.zeros(len(logits), 1)
        scores.instance_scores(class_logits, iou_logits, scores.patch_masks(logits))

    small, large = medians([lambda: classify(few), lambda: classify(many)], options.repeats)
    print(
        f"{options.clip}: a name is encoded once in {1000 * once:.1f} ms; {options.masks} masks "
        f"of an image take {small:.3f} s with {len(few)} classes, {large:.3f} s with {len(many)} "
        f"({large / small:.2f} times)"
    )
    return {"names": large / small}


def prompts(options: argparse.Namespace) -> dict[str, float]:
    """Compare batched prompts with single prompts on an image that is encoded once."""
    sam = Sam.from_source(options.sam)
    image = (noise(480, 640, 3) * 255).byte().numpy()
    calls = []
    encoder = sam.model.image_encoder
    forward = encoder.forward
    encoder.forward = lambda pixels: calls.append(len(pixels)) or forward(pixels)
    grid = torch.cartesian_prod(torch.linspace(20, 620, 8), torch.linspace(20, 460, 8))[:, None]
    start = time.perf_counter()
    encoded = sam.encode(image)
    encoding = time.perf_counter() - start
    ones = torch.ones(len(grid), 1)

    def one_by_one() -> None:
        for point in grid[: options.single]:
            encoded.predict(points=point[None], labels=ones[:1])

    batched, single = medians(
        [lambda: encoded.predict(points=grid, labels=ones), one_by_one], options.repeats
    )
    single *= len(grid) / options.single
    encoder.forward = forward
    if calls != [1]:
        raise SystemExit(f"the image was encoded {len(calls)} times instead of once")
    print(
        f"{options.sam}: encoded once in {encoding:.2f} s; {len(grid)} prompts {batched:.2f} s, "
        f"one by one {single:.2f} s ({single / batched:.2f} times); {len(grid)} images encoded "
        f"for them would take {(len(grid) * encoding + single) / (encoding + batched):.1f} times "
        "as long in total"
    )
    return {"prompts": single / batched}


def fusion(options: argparse.Namespace) -> dict[str, float]:
    """Compare fusion in chunks and at once, each in a separate process to measure peak memory."""
    measured = {}
    for mode in ("none", "chunks", "full"):
        command = [sys.executable, __file__, "fuse", "--mode", mode]
        command += ["--tokens", str(options.tokens), "--pixels", str(options.pixels)]
        completed = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, peak, total, first = (float(number) for number in completed.stdout.split())
        measured[mode] = (seconds, peak, total, first)
    base = measured["none"][1]
    for mode in ("chunks", "full"):
        seconds, peak, *_ = measured[mode]
        print(f"{mode}: {seconds:.2f} s, {(peak - base) / MEBIBYTE:.0f} MiB beside its inputs")
    sums = [measured[mode][2] for mode in ("chunks", "full")]
    print(
        f"{options.tokens} tokens and {options.pixels} pixels: chunks take "
        f"{(measured['chunks'][1] - base) / (measured['full'][1] - base):.2f} of the memory "
        f"of full attention, {measured['chunks'][0] / measured['full'][0]:.2f} of its time; "
        f"mean magnitudes differ by {abs(sums[0] - sums[1]) / sums[1]:.1e}"
    )
    return {"memory": (measured["chunks"][1] - base) / (measured["full"][1] - base)}


def fuse(options: argparse.Namespace) -> None:
    """Run one mode of `fusion` and print its time, peak memory and mean magnitudes."""
    torch.manual_seed(0)
    fusion_layer = BidirectionalFusion(256, 768).eval()
    visual, text = noise(1, options.pixels, 256) - 0.5, noise(1, options.tokens, 768) - 0.5
    mask = torch.ones(1, options.tokens, dtype=torch.bool)
    start = time.perf_counter()
    fused = (visual, text)
    with torch.no_grad():
        if options.mode == "chunks":
            fused = fuse_in_chunks(fusion_layer, visual, text, mask)
        elif options.mode == "full":
            fused = fusion_layer(visual, text, mask)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    total = sum(float(tensor.abs().mean()) for tensor in fused)
    print(seconds, peak, total, float(fused[0][0, 0, 0]))


def main() -> None:
    """Run the part that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["masks", "names", "prompts", "fusion", "fuse"])
    parser.add_argument("--clip", default="random:ViT-B-16")
    parser.add_argument("--sam", default="random:vit_b")
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument(
        "--single", type=int, default=8, help="number of crops or prompts measured singly"
    )
    parser.add_argument("--tokens", type=int, default=12_000)
    parser.add_argument("--pixels", type=int, default=4_500)
    parser.add_argument("--mode", choices=["none", "chunks", "full"], default="chunks")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        globals()[options.part](options)


if __name__ == "__main__":
    main()
