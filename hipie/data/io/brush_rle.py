"""Brush masks of Label Studio: run-length encoding of the bits of an RGBA image.

Format: the `rle-pack` package of thi.ng/umbrella. A header of 53 bits holds the number of values
(32), the bits of a value less one (5), and four widths of run lengths less one (4 each). Then
follow runs: a bit that says whether one value is repeated, the number of the width (2), the length
less one, and the value, or that many values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHANNELS = 4
VALUE_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
HEADER_BITS = 53
OPAQUE = 128
"""Alpha values from it on belong to the mask."""


def encode_brush(mask: NDArray[Any]) -> list[int]:
    """Encode a mask as Label Studio's `rle`: every channel is 255 in the mask, else 0.

    Args:
        mask: [H, W] bool.

    Returns:
        Bytes as integers in 0..255.
    """
    values = mask.ravel()
    starts = np.flatnonzero(np.diff(values, prepend=~values[:1]))
    lengths = np.diff(starts, append=values.size) * CHANNELS
    longest = 1 << LENGTH_BITS[-1]
    pieces = -(-lengths // longest)
    colours = np.repeat(values[starts], pieces).astype(np.int64) * 255
    # The last piece of a run has what remains of its length.
    piece_lengths = np.full(len(colours), longest, np.int64)
    piece_lengths[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * longest
    width_numbers = np.searchsorted([1 << bits for bits in LENGTH_BITS], piece_lengths)
    widths = np.array(LENGTH_BITS)[width_numbers]
    words = ((4 | width_numbers) << widths | (piece_lengths - 1)) << VALUE_BITS | colours
    header = [_bits(values.size * CHANNELS, 32), _bits(VALUE_BITS - 1, 5)]
    header += [_bits(bits - 1, 4) for bits in LENGTH_BITS]
    body = _concatenate_bits(words, 3 + widths + VALUE_BITS)
    return np.packbits(np.concatenate([*header, body])).tolist()


def decode_brush(rle: ArrayLike, height: int, width: int) -> NDArray[Any]:
    """Decode Label Studio's `rle`.

    Args:
        rle: bytes as integers in 0..255.
        height: of the image, in pixels.
        width: likewise.

    Returns:
        [H, W] bool: where the alpha channel is at least `OPAQUE`.

    Raises:
        ValueError: if it is no such code, or that of an image of another size.
    """
    data = np.asarray(rle)
    if data.ndim != 1 or data.dtype.kind not in "iu" or not len(data):
        raise ValueError("the rle is not a list of integers")
    if data.min() < 0 or data.max() > 255:
        raise ValueError("the rle has values that are not in 0 to 255")
    reader = _BitReader(np.unpackbits(data.astype(np.uint8)))
    count = reader.read(32)
    if count != height * width * CHANNELS:
        raise ValueError(
            f"the rle has {count // CHANNELS} pixels, and an image of {width}x{height} "
            f"{height * width}"
        )
    value_bits = reader.read(5) + 1
    widths = [reader.read(4) + 1 for _ in LENGTH_BITS]
    values = np.zeros(count, np.uint32)
    end = 0
    while end < count:
        is_run = reader.read(1)
        begin, end = end, end + 1 + reader.read(widths[reader.read(2)])
        if end > count:
            raise ValueError("the rle has more values than pixels")
        values[begin:end] = (
            reader.read(value_bits) if is_run else reader.read_many(value_bits, end - begin)
        )
    return values.reshape(height, width, CHANNELS)[:, :, -1] >= OPAQUE


class _BitReader:
    """Reads unsigned numbers, most significant bit first, from an array of bits."""

    def __init__(self, bits: NDArray[Any]) -> None:
        self._bits = bits
        self._position = 0

    def read(self, width: int) -> int:
        return int(self.read_many(width, 1)[0])

    def read_many(self, width: int, count: int) -> NDArray[Any]:
        end = self._position + width * count
        if end > len(self._bits):
            raise ValueError("the rle ends before the last pixel")
        bits = self._bits[self._position : end].reshape(count, width)
        self._position = end
        return bits @ (1 << np.arange(width - 1, -1, -1, dtype=np.int64))


def _bits(number: int, width: int) -> NDArray[Any]:
    return (number >> np.arange(width - 1, -1, -1) & 1).astype(np.uint8)


def _concatenate_bits(words: NDArray[Any], widths: NDArray[Any]) -> NDArray[Any]:
    """Return the bits of numbers, each with its own width, one after another."""
    ends = np.cumsum(widths)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for position in range(int(widths.max(initial=0))):
        has_bit = widths > position
        bits[ends[has_bit] - 1 - position] = words[has_bit] >> position & 1
    return bits
