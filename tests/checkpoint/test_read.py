"""Reading of files of weights."""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hipie.checkpoint import CheckpointError, read_state


def weights() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(3)}


def error_message(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_state(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "bare.pth", "state_dict.pth", "x.pkl"])
def test_every_format_has_the_same_tensors(tmp_path, name):
    path = tmp_path / name
    if name == "x.safetensors":
        save_file(weights(), path)
    elif name == "x.pkl":
        arrays = {key: value.numpy() for key, value in weights().items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "me"}))
    else:
        content = {"x": {"model": weights()}, "bare": weights(), "state_dict": None}[path.stem]
        torch.save(content or {"state_dict": weights(), "epoch": 3}, path)
    state = read_state(path)["model"]
    assert state.keys() == weights().keys()
    for key, value in weights().items():
        assert torch.equal(state[key], value)


def test_training_checkpoint_keeps_its_other_content(tmp_path):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [2]).state_dict(),
        "iteration": 9,
        "best": np.float64(0.5),
        "random": np.random.default_rng(1).bit_generator.state,
    }
    torch.save(content, tmp_path / "x.pth")
    read = read_state(tmp_path / "x.pth")
    assert read["iteration"] == 9
    assert read["best"] == 0.5
    optimizer.load_state_dict(read["optimizer"])
    assert isinstance(read["model"], dict)


def test_caffe2_files_have_no_author(tmp_path):
    arrays = {"conv1_w": np.ones((2, 2), "f4"), "conv1_w_momentum": np.ones((2, 2), "f4")}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    read = read_state(path)
    assert list(read["model"]) == ["conv1_w"]
    assert read["matching_heuristics"] is True
    assert read["__author__"] == "Caffe2"


def test_files_that_name_code_are_refused(traps):
    files, owned = traps
    for file in files:
        assert "refused, and nothing of it was run" in error_message(file)
        assert not owned.exists()


def test_other_objects_are_refused_by_name(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": weights(), "args": argparse.Namespace(lr=1)}, path)
    assert '"argparse.Namespace"' in error_message(path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "old.pth", "x.pkl"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_truncated_file_is_an_error(tmp_path, name, share):
    path = tmp_path / name
    state = {f"layer{i}.weight": torch.ones(30, 30) for i in range(5)}
    if name == "x.safetensors":
        save_file(state, path)
    elif name == "x.pkl":
        path.write_bytes(pickle.dumps({k: v.numpy() for k, v in state.items()}))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "x.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated" in error_message(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.pth", b"<html>404</html>"),
        ("x.safetensors", b"<html>404 not found</html>"),
        ("x.pkl", b"<html>404</html>"),
        ("x.bin", bytes(range(256))),
    ],
)
def test_files_of_other_formats_are_an_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "no file of weights" in error_message(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"epoch": 3}, torch.ones(2), {}])
def test_files_without_weights_are_an_error(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    message = error_message(tmp_path / "x.pth")
    assert "contains no weights" in message or "instead of weights" in message


def test_missing_files_and_folders_are_an_error(tmp_path):
    assert "no such file" in error_message(tmp_path / "nothing.pth")
    assert "folder" in error_message(tmp_path)


def test_failed_download_is_an_error(monkeypatch):
    def refuse(path, **options):
        raise OSError("connection refused")

    monkeypatch.setattr("hipie.checkpoint.read.PathManager.get_local_path", refuse)
    with pytest.raises(CheckpointError, match=r"https://x/y\.pth: it could not be downloaded"):
        read_state("https://x/y.pth")


def test_addresses_are_resolved_by_the_path_manager(tmp_path, monkeypatch):
    save_file(weights(), tmp_path / "kept.safetensors")
    paths = []

    def fetch(path, **options):
        paths.append(path)
        return str(tmp_path / "kept.safetensors")

    monkeypatch.setattr("hipie.checkpoint.read.PathManager.get_local_path", fetch)
    assert read_state("detectron2://a/kept.safetensors")["model"].keys() == weights().keys()
    assert paths == ["detectron2://a/kept.safetensors"]


def test_entries_that_are_no_tensors_are_left_out(tmp_path):
    torch.save(
        OrderedDict([("a", torch.ones(1)), (3, torch.ones(1)), ("b", "text")]), tmp_path / "x.pth"
    )
    assert list(read_state(tmp_path / "x.pth")["model"]) == ["a"]
