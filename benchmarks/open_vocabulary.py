"""What CLIP and SAM cost beside HIPIE, and what very large vocabularies cost.

Times are medians of calls that take turns within one run, after a warm-up; weights are random and
the image is noise, on which times do not depend. Every line ends with a ratio: it is what counts.

    python benchmarks/open_vocabulary.py masks    100 masks of an image against one, and crops
    python benchmarks/open_vocabulary.py names    10,000 names at the CLIP head against 100, once
                                                  their texts are known
    python benchmarks/open_vocabulary.py prompts  64 prompts to SAM on one image
    python benchmarks/open_vocabulary.py fusion   early fusion of many tokens, in chunks
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

# This file's own name must not hide the package's.
sys.path[0] = str(Path(__file__).parents[1])
from hipie.modeling.fusion.bidirectional_attention import BidirectionalFusion
from hipie.modeling.fusion.chunked import fuse_in_chunks
from hipie.modeling.open_vocabulary.clip import Clip, mask_crops
from hipie.modeling.open_vocabulary.clip_ensemble import ClassPrompts, ClipMaskScores, ScoreEnsemble
from hipie.modeling.sam.predictor import Sam

SYLLABLES = ("ba", "co", "du", "fe", "gi", "la", "mo", "nu", "pe", "ri")
MEBIBYTE = 2**20


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


def noise(*size: int, seed: int = 0) -> torch.Tensor:
    """Uniform numbers in 0..1."""
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def blobs(count: int, side: int = 224) -> torch.Tensor:
    """[count, side, side] soft masks of rectangles here and there, as logits."""
    corner = (noise(count, 2, seed=1) * side * 0.7).long()
    size = (noise(count, 2, seed=2) * side * 0.3).long() + 8
    masks = torch.full((count, side, side), -6.0)
    for mask, (y, x), (high, wide) in zip(masks, corner.tolist(), size.tolist(), strict=True):
        mask[y : y + high, x : x + wide] = 6.0
    return masks


def masks(options: argparse.Namespace) -> dict[str, float]:
    """All masks in one pass, one mask, and one crop a mask, from pixels to features."""
    clip, image, many = Clip.from_source(options.clip), noise(3, 480, 640), blobs(options.masks)
    shown = torch.nn.functional.interpolate(many[:, None], (480, 640))[:, 0] > 0

    def in_one_pass(count: int) -> torch.Tensor:
        return clip.mask_features(image, shown[:count])

    def cropped() -> torch.Tensor:
        parts = mask_crops(image, shown[: options.single], clip.image_size, 32)
        return torch.cat([clip.image_features(part) for part in parts])

    one, every, crops = medians(
        [lambda: in_one_pass(1), lambda: in_one_pass(options.masks), cropped], options.repeats
    )
    crops *= options.masks / min(options.single, options.masks)
    print(
        f"{options.clip}: 1 mask {one:.3f} s, {options.masks} masks {every:.3f} s "
        f"({every / one:.2f} times), {options.masks} crops {crops:.3f} s "
        f"({crops / every:.1f} times the one pass)"
    )
    return {"masks": every / one, "crops": crops / every}


def invented(count: int) -> list[str]:
    """So many names of two words."""
    words = ["".join(parts) for parts in product(SYLLABLES, repeat=3)]
    return [f"{one} {two}" for one, two in islice(product(words, words), count)]


def names(options: argparse.Namespace) -> dict[str, float]:
    """An image's masks judged among few names and among many, whose texts are known by then.

    Texts are encoded once in a model's life, which takes the text tower minutes on one core for
    10,000 of them. So that is measured on the few, and then done without the tower's blocks: with
    random weights their features would be noise as well, and as long.
    """
    clip, image, logits = Clip.from_source(options.clip), noise(3, 480, 640), blobs(options.masks)
    few, many = (invented(count) for count in (options.few, options.many))
    start = time.perf_counter()
    clip.text_features(few)
    once = (time.perf_counter() - start) / len(few)
    clip.model.transformer.resblocks = torch.nn.ModuleList()
    clip.text_features(many)

    def judge(words: list[str]) -> None:
        classes = ClassPrompts(
            tuple((word,) for word in words), (False,) * len(words), (True,) * len(words)
        )
        opinion = ClipMaskScores(clip, image, classes, ScoreEnsemble())
        visible = opinion.patch_masks(logits)
        own = torch.zeros(len(logits), len(words))
        opinion.instance_scores(own, torch.zeros(len(logits), 1), visible)

    small, large = medians([lambda: judge(few), lambda: judge(many)], options.repeats)
    print(
        f"{options.clip}: a name is read once, in {1000 * once:.1f} ms; then {options.masks} masks "
        f"of an image among {len(few)} names take {small:.3f} s, among {len(many)} {large:.3f} s "
        f"({large / small:.2f} times)"
    )
    return {"names": large / small}


def prompts(options: argparse.Namespace) -> dict[str, float]:
    """Encoding an image, and answering prompts about it, together and one by one."""
    sam = Sam.from_source(options.sam)
    image = (noise(480, 640, 3) * 255).byte().numpy()
    calls = []
    encoder = sam.model.image_encoder
    own = encoder.forward
    encoder.forward = lambda pixels: calls.append(len(pixels)) or own(pixels)
    grid = torch.cartesian_prod(torch.linspace(20, 620, 8), torch.linspace(20, 460, 8))[:, None]
    start = time.perf_counter()
    picture = sam.encode(image)
    encoding = time.perf_counter() - start
    ones = torch.ones(len(grid), 1)

    def one_by_one() -> None:
        for point in grid[: options.single]:
            picture.predict(points=point[None], labels=ones[:1])

    together, apart = medians(
        [lambda: picture.predict(points=grid, labels=ones), one_by_one], options.repeats
    )
    apart *= len(grid) / options.single
    encoder.forward = own
    if calls != [1]:
        raise SystemExit(f"the image was encoded {len(calls)} times")
    print(
        f"{options.sam}: encoded once in {encoding:.2f} s; {len(grid)} prompts {together:.2f} s, "
        f"one by one {apart:.2f} s ({apart / together:.2f} times); {len(grid)} images encoded "
        f"for them would take {(len(grid) * encoding + apart) / (encoding + together):.1f} times "
        "as long in all"
    )
    return {"prompts": apart / together}


def fusion(options: argparse.Namespace) -> dict[str, float]:
    """One way of fusing in a process of its own each, so that its peak memory shows."""
    found = {}
    for way in ("nothing", "chunks", "whole"):
        command = [sys.executable, __file__, "fuse", "--way", way]
        command += ["--pieces", str(options.pieces), "--pixels", str(options.pixels)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, peak, total, first = (float(word) for word in ended.stdout.split())
        found[way] = (seconds, peak, total, first)
    base = found["nothing"][1]
    for way in ("chunks", "whole"):
        seconds, peak, *_ = found[way]
        print(f"{way}: {seconds:.2f} s, {(peak - base) / MEBIBYTE:.0f} MiB beside its inputs")
    sums = [found[way][2] for way in ("chunks", "whole")]
    print(
        f"{options.pieces} tokens and {options.pixels} pixels: chunks take "
        f"{(found['chunks'][1] - base) / (found['whole'][1] - base):.2f} of the memory of one "
        f"piece, {found['chunks'][0] / found['whole'][0]:.2f} of its time; mean magnitudes differ "
        f"by {abs(sums[0] - sums[1]) / sums[1]:.1e}"
    )
    return {"memory": (found["chunks"][1] - base) / (found["whole"][1] - base)}


def fuse(options: argparse.Namespace) -> None:
    """One process of `fusion`."""
    torch.manual_seed(0)
    made = BidirectionalFusion(256, 768).eval()
    visual, text = noise(1, options.pixels, 256) - 0.5, noise(1, options.pieces, 768) - 0.5
    mask = torch.ones(1, options.pieces, dtype=torch.bool)
    start = time.perf_counter()
    found = (visual, text)
    with torch.no_grad():
        if options.way == "chunks":
            found = fuse_in_chunks(made, visual, text, mask)
        elif options.way == "whole":
            found = made(visual, text, mask)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    total = sum(float(one.abs().mean()) for one in found)
    print(seconds, peak, total, float(found[0][0, 0, 0]))


def main() -> None:
    """Read the command line and print one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["masks", "names", "prompts", "fusion", "fuse"])
    parser.add_argument("--clip", default="random:ViT-B-16")
    parser.add_argument("--sam", default="random:vit_b")
    parser.add_argument("--masks", type=int, default=100)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--single", type=int, default=8, help="crops or prompts measured, of all")
    parser.add_argument("--pieces", type=int, default=12_000)
    parser.add_argument("--pixels", type=int, default=4_500)
    parser.add_argument("--way", choices=["nothing", "chunks", "whole"], default="chunks")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.no_grad():
        globals()[options.part](options)


if __name__ == "__main__":
    main()
