"""Time of the methods of projects/TrainingFree relative to a forward pass of the same CLIP.

ViT-B/16 with random weights on the CPU, a square image of noise, 20 names with cached features. The
methods run alternately in one process; results are medians of processor seconds (of all threads
together) after a warm-up. DINO is a ViT-S/16, for CLIP-DINOiser a ViT-B/16.

    python benchmarks/training_free.py
    python benchmarks/training_free.py --size 448 --repeats 9 --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path[0] = str(Path(__file__).parents[1])
from hipie.engine.malloc import keep_freed_memory
from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.masked_attention_pooling import embed
from hipie.modeling.open_vocabulary.sliding_window import SlidingWindowConfig
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_training_free import (
    GEM,
    SCLIP,
    ClassAttention,
    CLIPDINOiser,
    KMeansGrouping,
    MaskCLIP,
    TokenCut,
)
from hipie_training_free.meta_arch import ClassificationConfig
from hipie_training_free.modeling.dino import Dino
from hipie_training_free.modeling.global_local_clip import mask_features

NAMES = 20
MASKS = 32


def methods(size: int) -> dict[str, Callable[[], object]]:
    """Build a call for each method, the forward pass of CLIP first."""
    clip = Clip.from_source("random:ViT-B-16")
    small = Dino.from_source("random:vit_small_patch16_224")
    base = Dino.from_source("random:vit_base_patch16_224")
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    item = {
        "image": 255 * image,
        "vocabulary": Vocabulary.from_names([f"thing {number}" for number in range(NAMES)]),
    }
    masks = torch.zeros(MASKS, size, size, dtype=torch.bool)
    for number in range(MASKS):
        start = number * (size // (2 * MASKS))
        masks[number, start : start + size // 3, start : start + size // 2] = True
    dense = {"clip": clip, "classification": ClassificationConfig("one")}
    models = {
        "MaskCLIP": MaskCLIP(**dense),
        "MaskCLIP, refined": MaskCLIP(**dense, prompt_denoising=0.5, key_smoothing=1.0),
        "SCLIP": SCLIP(**dense),
        "SCLIP, windows of 224": SCLIP(**dense, sliding_window=SlidingWindowConfig(224, 112)),
        "GEM": GEM(**dense),
        "CLIP-DINOiser's teacher": CLIPDINOiser(**dense, dino=base),
        "class attention": ClassAttention(dino=small, **dense),
        "k-means": KMeansGrouping(dino=small, **dense),
        "TokenCut": TokenCut(dino=small, **dense),
        "TokenCut, 3 objects": TokenCut(dino=small, objects=3, **dense),
    }

    def forward_pass() -> torch.Tensor:
        return clip.visual.transformer(embed(clip.visual, clip.prepare(image[None], (size, size))))

    calls: dict[str, Callable[[], object]] = {"forward pass": forward_pass}
    for name, model in models.items():
        calls[name] = partial(model.eval(), [item])
    calls[f"global-local, {MASKS} masks"] = lambda: mask_features(clip, image, masks)
    return calls


def measure(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Measure median CPU seconds of each call, run alternately."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            with torch.no_grad():
                call()
            if repeat:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=336, help="side of the image")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"{options.size} x {options.size} pixels, {options.threads} threads, {NAMES} names")
    print("| method | ms | relative to a forward pass |\n|---|---|---|")
    results = measure(methods(options.size), options.repeats)
    first = next(iter(results.values()))
    for name, seconds in results.items():
        print(f"| {name} | {1000 * seconds:.0f} | {seconds / first:.2f} |")


if __name__ == "__main__":
    main()
