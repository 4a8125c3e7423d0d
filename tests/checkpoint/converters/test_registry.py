"""Layouts of weights, told by their names."""

from __future__ import annotations

import pytest
import torch

from hipie.checkpoint import CheckpointError
from hipie.checkpoint.converters.registry import Format, Rename, by_table, to_ours


def state(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((1,), float(i)) for i, name in enumerate(names)}


def test_our_own_names_stay():
    found = to_ours(state("things.a", "stuff.b"))
    assert list(found.state) == ["things.a", "stuff.b"]
    assert (found.layout, found.dropped) == ("hipie", ())


def test_a_wrapper_for_several_processes_is_taken_off():
    found = to_ours(state("module.a.weight", "module.module.b"))
    assert list(found.state) == ["a.weight", "module.b"]
    assert found.layout == "several processes"
    assert list(to_ours(state("module.a", "b")).state) == ["module.a", "b"]


def test_a_table_renames_by_its_first_rule_and_leaves_out_on_purpose():
    convert = by_table(
        [
            Rename(r"video\..*", None),
            Rename(r"enc\.(\d+)\.w", r"layers.\1.weight"),
            Rename(r"enc\..*", r"never"),
        ]
    )
    ours, dropped = convert(state("enc.0.w", "enc.11.w", "video.x", "head", "an.enc.0.w"))
    assert list(ours) == ["layers.0.weight", "layers.11.weight", "head", "an.enc.0.w"]
    assert dropped == ["video.x"]
    assert ours["layers.11.weight"].item() == 1


def test_two_tensors_never_become_one():
    convert = by_table([Rename(r"a\d", "a")])
    with pytest.raises(CheckpointError, match=r'"a".*"a2"'):
        convert(state("a1", "a2"))


def test_layouts_are_recognised_in_turn():
    theirs = Format("theirs", lambda names: "enc.w" in names, by_table([Rename("enc.w", "w")]))
    wrapped = Format(
        "wrapped",
        lambda names: all(name.startswith("m.") for name in names),
        by_table([Rename(r"m\.(.+)", r"\1"), Rename("x", None)]),
    )
    found = to_ours(state("m.enc.w", "m.b"), (wrapped, theirs))
    assert list(found.state) == ["w", "b"]
    assert found.layout == "wrapped, theirs"
