"""What was made of examples is kept, so that a folder of images pays for them once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch

from hipie_fewshot.support_set import Example, require_examples

Made = TypeVar("Made")
KEPT = 8


class Remembered(Generic[Made]):
    """A function of examples, with its last answers.

    Examples are told apart by their pixels and not by their names, so that a file that changed, or
    an array that was written into, is looked at anew.

    Args:
        make: examples -> whatever a method needs of them.
        kept: so many lists of examples are remembered.
    """

    def __init__(self, make: Callable[[Sequence[Example]], Made], kept: int = KEPT) -> None:
        self._make = make
        self._kept = kept
        self._made: OrderedDict[tuple[object, ...], Made] = OrderedDict()

    def __call__(self, examples: Sequence[Example], device: torch.device) -> Made:
        """What was, or is now, made of the examples on a device.

        Raises:
            ExampleError: without examples.
        """
        require_examples(examples)
        rough = torch.is_autocast_enabled(device.type)
        key = (str(device), rough, *map(_digest, examples))
        if key not in self._made:
            self._made[key] = self._make(examples)
        self._made.move_to_end(key)
        while len(self._made) > self._kept:
            self._made.popitem(last=False)
        return self._made[key]


def _digest(example: Example) -> bytes:
    digest = hashlib.blake2b(str(example.image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(example.image))
    digest.update(np.packbits(example.mask))
    return digest.digest()
