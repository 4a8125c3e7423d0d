"""Time of one more click on an encoded image, and of one more query image for the same examples.

An image goes through SAM's image encoder once for any number of clicks, and support examples go
through their networks once for any number of query images. Both are compared with encoding every
time. Weights are random and images noise, which does not affect the times; both variants alternate
within one run, medians after a warm-up. Every line ends with a ratio.

    python benchmarks/clicks_and_examples.py
    python benchmarks/clicks_and_examples.py --sam random:tiny --dino random:tiny --size 112
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.open_vocabulary import medians
from hipie.engine.malloc import keep_freed_memory
from hipie.modeling.sam.predictor import Sam
from hipie_fewshot import Example
from hipie_fewshot.modeling.dino import Dino
from hipie_fewshot.modeling.method import FewShotMethod
from hipie_fewshot.modeling.persam import PerSam
from hipie_fewshot.modeling.persam_f import PerSamF
from hipie_fewshot.modeling.prototype import Prototype
from hipie_interactive import Prompt, Session

HEIGHT, WIDTH = 480, 640


def noise(seed: int) -> np.ndarray:
    """Draw an image of uniform noise, [480, 640, 3] uint8."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3))
    return pixels.astype(np.uint8)


def clicks(sam: Sam, repeats: int) -> float:
    """Compare a click on an encoded image with encoding the image for every click.

    Returns:
        Time with encoding over time without.
    """
    image, first = noise(0), Prompt(inside=[(300, 200)])
    session = Session(sam, image)
    session.add(first)

    def click_on_encoded() -> None:
        session.add(Prompt(outside=[(20, 30)]))
        session.undo()

    def encode_and_click() -> None:
        Session(sam, image).add(first)

    cached, encoded = medians([click_on_encoded, encode_and_click], repeats)
    print(
        f"a click takes {1000 * cached:.0f} ms, with the image encoded for it "
        f"{1000 * encoded:.0f} ms ({encoded / cached:.1f} times)"
    )
    return encoded / cached


def examples(
    name: str, build: Callable[[], FewShotMethod[Any]], networks: str, shots: int, repeats: int
) -> float:
    """Compare a query image for cached examples with one for new examples.

    Returns:
        Time with new examples over time with cached ones.
    """
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[100:300, 200:500] = True
    support = [Example(noise(1 + index), mask) for index in range(shots)]
    method, image = build(), noise(0)
    method.predict(image, support)
    cached, new = medians(
        [lambda: method.predict(image, support), lambda: build().predict(image, support)], repeats
    )
    print(
        f"{name} ({networks}), {shots} example(s): an image takes {cached:.2f} s, with the "
        f"examples encoded for it {new:.2f} s ({new / cached:.2f} times)"
    )
    return new / cached


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run all comparisons and return their ratios by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sam", default="random:vit_b")
    parser.add_argument("--dino", default="random:vit_base_patch14_dinov2")
    parser.add_argument("--size", type=int, default=518, help="side of DINO's square")
    parser.add_argument("--shots", type=int, default=1, help="examples")
    parser.add_argument(
        "--steps", type=int, default=100, help="optimisation steps of PerSAM-F (published: 1000)"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    sam, dino = Sam.from_source(options.sam), Dino.from_source(options.dino, size=options.size)
    methods: dict[str, tuple[Callable[[], FewShotMethod[Any]], str]] = {
        "prototype": (lambda: Prototype(dino), options.dino),
        "PerSAM": (lambda: PerSam(sam), options.sam),
        "PerSAM-F": (lambda: PerSamF(sam, options.steps), options.sam),
    }
    with torch.no_grad():
        ratios = {"clicks": clicks(sam, options.repeats)}
        for name, (build, networks) in methods.items():
            ratios[name] = examples(name, build, networks, options.shots, options.repeats)
    return ratios


if __name__ == "__main__":
    main()
