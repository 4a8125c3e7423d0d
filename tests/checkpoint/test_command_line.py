"""`hipie checkpoint`."""

from __future__ import annotations

import os

import pytest
import torch

from hipie.checkpoint import load_weights, read_state, save_weights
from hipie.cli.checkpoint import main


def test_inspect_lists_modules(two, tmp_path, capsys):
    torch.save({"model": two.state_dict(), "iteration": 9, "optimizer": {}}, tmp_path / "x.pth")
    assert main(["inspect", str(tmp_path / "x.pth")]) == 0
    output = capsys.readouterr().out
    assert "layout hipie, 9 tensors, 43 numbers" in output
    assert "other content: iteration, optimizer" in output
    assert "norm: 5 tensors" in output


def test_inspect_all_lists_every_tensor(two, tmp_path, capsys):
    save_weights(two, tmp_path / "x.safetensors")
    assert main(["inspect", "--all", str(tmp_path / "x.safetensors")]) == 0
    assert "first.weight [4, 3] float16" in capsys.readouterr().out


def test_convert_writes_the_weights_only(make_two, tmp_path, capsys):
    model = make_two()
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"model": wrapped, "iteration": 9}, tmp_path / "x.pth")
    out = tmp_path / "y.safetensors"
    assert main(["convert", str(tmp_path / "x.pth"), str(out), "--half"]) == 0
    assert "9 tensors; layout hipie" in capsys.readouterr().out
    assert load_weights(make_two(), out).complete
    assert read_state(out)["model"]["first.weight"].dtype == torch.float16
    assert main(["convert", str(out), str(tmp_path / "z.pth"), "--exclude", "norm.", "last."]) == 0
    assert set(read_state(tmp_path / "z.pth")["model"]) == {"first.weight", "first.bias"}


def test_converted_weights_replace_no_file_of_the_user(two, tmp_path, capsys):
    save_weights(two, tmp_path / "x.safetensors")
    os.symlink(tmp_path / "x.safetensors", tmp_path / "link.safetensors")
    (tmp_path / "notes.pth").write_text("mine")
    before = (tmp_path / "x.safetensors").read_bytes()
    for out, more, message in (
        ("x.safetensors", ["--overwrite"], "is a file that is read"),
        ("link.safetensors", ["--overwrite"], "is a file that is read"),
        ("notes.pth", [], "exists; name another file, or replace it with --overwrite"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["convert", str(tmp_path / "x.safetensors"), str(tmp_path / out), *more])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "x.safetensors").read_bytes() == before
    assert (tmp_path / "notes.pth").read_text() == "mine"
    given = ["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "notes.pth")]
    assert main([*given, "--overwrite"]) == 0
    assert set(read_state(tmp_path / "notes.pth")["model"]) == set(two.state_dict())


def test_errors_are_one_line(tmp_path, traps, capsys):
    files, owned = traps
    for file in [*files, tmp_path / "nothing.pth"]:
        with pytest.raises(SystemExit) as ended:
            main(["inspect", str(file)])
        assert ended.value.code.count("\n") == 0
        assert str(file) in ended.value.code
        assert capsys.readouterr().err == ""
    assert not owned.exists()
