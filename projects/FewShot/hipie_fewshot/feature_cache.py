"""Bounded cache of the features of support examples."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch

from hipie_fewshot.support_set import Example, require_examples

Features = TypeVar("Features")
MAX_SIZE = 8


class FeatureCache(Generic[Features]):
    """Least-recently-used cache of a function of support examples.

    The key is a digest of the examples' pixels and masks, the device and whether autocast is on,
    so that changed files and arrays that were written into are computed again.

    Args:
        compute: maps examples to the features that a method needs of them.
        max_size: number of support sets whose features are kept.
    """

    def __init__(
        self, compute: Callable[[Sequence[Example]], Features], max_size: int = MAX_SIZE
    ) -> None:
        self._compute = compute
        self._max_size = max_size
        self._entries: OrderedDict[tuple[object, ...], Features] = OrderedDict()

    def __call__(self, examples: Sequence[Example], device: torch.device) -> Features:
        """Return the features of a support set, computing them if they are not cached.

        Args:
            examples: support examples, at least one.
            device: device of the networks.

        Raises:
            ExampleError: if there are no examples.
        """
        require_examples(examples)
        autocast = torch.is_autocast_enabled(device.type)
        key = (str(device), autocast, *map(_digest, examples))
        if key not in self._entries:
            self._entries[key] = self._compute(examples)
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_size:
            self._entries.popitem(last=False)
        return self._entries[key]


def _digest(example: Example) -> bytes:
    digest = hashlib.blake2b(str(example.image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(example.image).data)
    digest.update(np.packbits(example.mask).data)
    return digest.digest()
