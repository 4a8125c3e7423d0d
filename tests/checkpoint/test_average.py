"""Weighted means of state dicts, and `hipie checkpoint average`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hipie.checkpoint import load_weights, read_state, save_weights
from hipie.checkpoint.average import average_states
from hipie.checkpoint.error import CheckpointError
from hipie.cli.checkpoint import main


@pytest.fixture
def states(make_two):
    return {name: make_two().state_dict() for name in ("a.pth", "b.pth", "c.pth")}


def test_mean_of_numpy(states):
    weights = (0.5, 0.3, 0.2)
    averaged = average_states(states, weights)
    for name, value in averaged.items():
        stacked = np.stack([state[name].numpy() for state in states.values()])
        if value.is_floating_point():
            expected = np.average(stacked.astype(np.float64), axis=0, weights=weights)
            np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-7)
        else:
            np.testing.assert_array_equal(value.numpy(), stacked[0])
        assert value.dtype == states["a.pth"][name].dtype


def test_equal_weights_without_any_and_no_change_of_the_inputs(states):
    before = {name: value.clone() for name, value in states["a.pth"].items()}
    thirds = average_states(states, (1 / 3, 1 / 3, 1 / 3))
    for name, value in average_states(states).items():
        torch.testing.assert_close(value, thirds[name])
        torch.testing.assert_close(states["a.pth"][name], before[name], rtol=0, atol=0)


def test_other_names_are_the_first_file_s(states):
    averaged = average_states(states, (0.5, 0.25, 0.25), ["first."])
    first = states["a.pth"]
    for name, value in averaged.items():
        is_equal = torch.equal(value, first[name])
        assert is_equal != (name.startswith("first.") and value.is_floating_point())


@pytest.mark.parametrize(
    ("weights", "patterns", "change", "message"),
    [
        ((0.5, 0.5), [""], None, "2 weights for 3 files"),
        ((0.5, 0.5, 0.5), [""], None, "the weights have the sum 1.5, not 1"),
        ((), ["nothing."], None, "a.pth has no floating-point tensor nothing."),
        ((), [""], "missing", "b.pth has no tensor first.weight"),
        ((), [""], "shape", "b.pth: first.weight has the shape [1], not [4, 3]"),
    ],
)
def test_errors_name_the_file(states, weights, patterns, change, message):
    if change == "missing":
        del states["b.pth"]["first.weight"]
    elif change == "shape":
        states["b.pth"]["first.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as raised:
        average_states(states, weights, patterns)
    assert message in str(raised.value)


def test_command(make_two, tmp_path, capsys):
    models = [make_two(), make_two()]
    files = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    for model, file in zip(models, files, strict=True):
        save_weights(model, file, half=False)
    out = tmp_path / "mean.pth"
    given = ["average", *files, "--output", str(out), "--weights", "0.75", "0.25"]
    assert main([*given, "--only", "last."]) == 0
    assert "mean of 2 files, weights 0.75 0.25" in capsys.readouterr().out
    loaded = make_two()
    assert load_weights(loaded, out).complete
    first, second = (model.state_dict() for model in models)
    for name, value in loaded.state_dict().items():
        expected = first[name]
        if name.startswith("last.") and value.is_floating_point():
            expected = 0.75 * expected + 0.25 * second[name]
        torch.testing.assert_close(value, expected)


def test_command_replaces_no_file_of_the_user(two, tmp_path, capsys):
    files = [str(tmp_path / "a.pth"), str(tmp_path / "b.pth")]
    for file in files:
        save_weights(two, file)
    for arguments, message in (
        ([*files, "--output", files[1], "--overwrite"], "is a file that is read"),
        ([files[0], files[0], "--output", str(tmp_path / "c.pth")], "a file is named twice"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["average", *arguments])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert read_state(files[1])["model"].keys() == read_state(files[0])["model"].keys()
