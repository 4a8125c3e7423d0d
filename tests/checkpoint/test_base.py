"""What models declare about their checkpoints."""

from __future__ import annotations

import torch

from hipie.checkpoint.base import (
    CheckpointableModel,
    checkpoint_converters,
    external_weight_prefixes,
)
from hipie.modeling.text_encoder.bert import BertTextEncoder


def test_plain_modules_have_no_converters_and_no_external_weights(two):
    assert external_weight_prefixes(two) == ()
    assert checkpoint_converters(two) == ()
    assert external_weight_prefixes(CheckpointableModel()) == ()
    assert checkpoint_converters(CheckpointableModel()) == ()


def test_external_weights_are_not_missing_in_any_loader(with_packaged):
    assert external_weight_prefixes(with_packaged) == ("text_encoder.",)
    state = with_packaged.state_dict()
    kept = {name: value for name, value in state.items() if not name.startswith("text_encoder.")}
    assert with_packaged.load_state_dict(kept).missing_keys == []
    del kept["first.bias"]
    report = with_packaged.load_state_dict(kept, strict=False)
    assert report.missing_keys == ["first.bias"]
    unexpected = {**kept, "text_encoder.new": torch.zeros(1)}
    report = with_packaged.load_state_dict(unexpected, strict=False)
    assert report.unexpected_keys == ["text_encoder.new"]


def test_only_a_frozen_text_encoder_from_a_package_is_external():
    for frozen in (True, False):
        encoder = BertTextEncoder.from_source("minilm", frozen=frozen)
        assert encoder.has_external_weights() is frozen
