"""Conversion of checkpoints whose layout is recognised by tensor names."""

from __future__ import annotations

import pytest
import torch

from hipie.checkpoint import CheckpointError
from hipie.checkpoint.converters.conversion import (
    CheckpointConverter,
    Rename,
    convert_state,
    rename_by_table,
)


def state(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((1,), float(i)) for i, name in enumerate(names)}


def test_unrecognised_names_stay():
    conversion = convert_state(state("things.a", "stuff.b"), ())
    assert list(conversion.state) == ["things.a", "stuff.b"]
    assert (conversion.layout, conversion.dropped) == ("hipie", ())


def test_first_matching_rule_renames_or_drops():
    convert = rename_by_table(
        [
            Rename(r"video\..*", None),
            Rename(r"enc\.(\d+)\.w", r"layers.\1.weight"),
            Rename(r"enc\..*", r"never"),
        ]
    )
    renamed, dropped = convert(state("enc.0.w", "enc.11.w", "video.x", "head", "an.enc.0.w"))
    assert list(renamed) == ["layers.0.weight", "layers.11.weight", "head", "an.enc.0.w"]
    assert dropped == ["video.x"]
    assert renamed["layers.11.weight"].item() == 1


def test_two_tensors_with_one_new_name_are_an_error():
    convert = rename_by_table([Rename(r"a\d", "a")])
    with pytest.raises(CheckpointError, match=r'"a".*"a2"'):
        convert(state("a1", "a2"))


def test_converters_are_applied_in_order():
    inner = CheckpointConverter(
        "inner", lambda names: "enc.w" in names, rename_by_table([Rename("enc.w", "w")])
    )
    wrapped = CheckpointConverter(
        "wrapped",
        lambda names: all(name.startswith("m.") for name in names),
        rename_by_table([Rename(r"m\.(.+)", r"\1"), Rename("x", None)]),
        complete=False,
    )
    conversion = convert_state(state("m.enc.w", "m.b"), (wrapped, inner))
    assert list(conversion.state) == ["w", "b"]
    assert conversion.layout == "wrapped, inner"
    assert not conversion.complete
