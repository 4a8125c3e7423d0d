"""What does one more click cost, and one more image for the same examples?

An image goes through SAM's image encoder once, however often somebody clicks on it, and examples
through their networks once, however many images they are looked for in. Here either is set
against paying for it every time. Weights are random and images noise, on which times do not
depend; both ways take turns within one run, medians after a warm-up. Every line ends with a ratio.

    python benchmarks/clicks_and_examples.py
    python benchmarks/clicks_and_examples.py --sam random:tiny --dino random:tiny --size 112
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

# This file's own name must not hide the package's.
sys.path[0] = str(Path(__file__).parents[1])
from benchmarks.open_vocabulary import medians
from hipie.engine.malloc import keep_freed_memory
from hipie.modeling.sam.predictor import Sam
from hipie_fewshot import Example
from hipie_fewshot.build import Method
from hipie_fewshot.modeling.dino import Dino
from hipie_fewshot.modeling.persam import PerSam
from hipie_fewshot.modeling.persam_f import PerSamF
from hipie_fewshot.modeling.prototype import Prototype
from hipie_interactive import Prompt, Session

HEIGHT, WIDTH = 480, 640


def noise(seed: int) -> np.ndarray:
    """An image that shows nothing."""
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3))
    return pixels.astype(np.uint8)


def clicks(sam: Sam, repeats: int) -> float:
    """A click on an image that is encoded already, against encoding it for every click."""
    image, first = noise(0), Prompt(inside=[(300, 200)])
    session = Session(sam, image)
    session.add(first)

    def once_more() -> None:
        session.add(Prompt(outside=[(20, 30)]))
        session.undo()

    def from_the_start() -> None:
        Session(sam, image).add(first)

    more, anew = medians([once_more, from_the_start], repeats)
    print(
        f"a click takes {1000 * more:.0f} ms, with the image encoded for it {1000 * anew:.0f} ms "
        f"({anew / more:.1f} times)"
    )
    return anew / more


def examples(
    name: str, build: Callable[[], Method], networks: str, shots: int, repeats: int
) -> float:
    """An image after the first one for the same examples, against one with new examples."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[100:300, 200:500] = True
    shown = [Example(noise(1 + number), mask) for number in range(shots)]
    method, image = build(), noise(0)
    method.find(image, shown)
    known, new = medians(
        [lambda: method.find(image, shown), lambda: build().find(image, shown)], repeats
    )
    print(
        f"{name} ({networks}), {shots} example(s): an image takes {known:.2f} s, with the "
        f"examples looked at for it {new:.2f} s ({new / known:.2f} times)"
    )
    return new / known


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """The command line; returns the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sam", default="random:vit_b")
    parser.add_argument("--dino", default="random:vit_base_patch14_dinov2")
    parser.add_argument("--size", type=int, default=518, help="side of DINO's square")
    parser.add_argument("--shots", type=int, default=1, help="examples")
    parser.add_argument("--steps", type=int, default=100, help="of PerSAM-F's fit, published 1000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as `Segmenter` does
    sam, dino = Sam.from_source(options.sam), Dino.from_source(options.dino, size=options.size)
    methods: dict[str, tuple[Callable[[], Method], str]] = {
        "prototype": (lambda: Prototype(dino), options.dino),
        "PerSAM": (lambda: PerSam(sam), options.sam),
        "PerSAM-F": (lambda: PerSamF(sam, options.steps), options.sam),
    }
    with torch.no_grad():
        found = {"clicks": clicks(sam, options.repeats)}
        for name, (build, networks) in methods.items():
            found[name] = examples(name, build, networks, options.shots, options.repeats)
    return found


if __name__ == "__main__":
    main()
