"""Decoder outputs with losses."""

from __future__ import annotations

from tests.decoder_outputs import make_batch, make_stuff_batch

__all__ = ["make_batch", "make_stuff_batch"]
