"""Weights that an installed package carries."""

from __future__ import annotations

from torch import nn

from hipie.checkpoint.external_weights import prefixes_from_elsewhere
from hipie.modeling.text_encoder.bert import TextEncoder


def test_modules_say_it_themselves(two, with_packaged):
    assert prefixes_from_elsewhere(two) == ()
    assert prefixes_from_elsewhere(with_packaged) == ("text_encoder.",)
    assert prefixes_from_elsewhere(with_packaged.text_encoder) == ("",)


def test_only_a_frozen_packaged_text_encoder_is_left_out():
    for frozen in (True, False):
        holder = nn.Module()
        holder.text_encoder = TextEncoder.from_source("minilm", frozen=frozen)
        assert bool(prefixes_from_elsewhere(holder)) is frozen
