"""Files of weights, good and bad."""

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


def expression(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_state(path)
    said = str(caught.value)
    assert "\n" not in said
    assert str(path) in said
    return said


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "bare.pth", "state_dict.pth", "x.pkl"])
def test_every_format_gives_the_same_tensors(tmp_path, name):
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


def test_a_training_checkpoint_keeps_what_else_it_holds(tmp_path):
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


def test_the_oldest_zoo_files_name_no_author(tmp_path):
    arrays = {"conv1_w": np.ones((2, 2), "f4"), "conv1_w_momentum": np.ones((2, 2), "f4")}
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    read = read_state(path)
    assert list(read["model"]) == ["conv1_w"]
    assert read["matching_heuristics"] is True
    assert read["__author__"] == "Caffe2"


def test_no_code_is_run(traps):
    files, owned = traps
    for file in files:
        said = expression(file)
        assert "refused, and nothing of it was run" in said
        assert not owned.exists()


def test_objects_that_are_no_weights_are_refused_by_name(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"model": weights(), "args": argparse.Namespace(lr=1)}, path)
    assert '"argparse.Namespace"' in expression(path)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "old.pth", "x.pkl"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_a_truncated_file_is_named(tmp_path, name, share):
    path = tmp_path / name
    state = {f"layer{i}.weight": torch.ones(30, 30) for i in range(5)}
    if name == "x.safetensors":
        save_file(state, path)
    elif name == "x.pkl":
        path.write_bytes(pickle.dumps({k: v.numpy() for k, v in state.items()}))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "x.pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "truncated" in expression(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.pth", b"<html>404</html>"),
        ("x.safetensors", b"<html>404 not found</html>"),
        ("x.pkl", b"<html>404</html>"),
        ("x.bin", bytes(range(256))),
    ],
)
def test_other_files_are_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "no file of weights" in expression(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"epoch": 3}, torch.ones(2), {}])
def test_files_without_weights_are_named(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    assert "no weights" in expression(tmp_path / "x.pth")


def test_missing_files_and_folders_are_named(tmp_path):
    assert "no such file" in expression(tmp_path / "nothing.pth")
    assert "folder" in expression(tmp_path)


def test_an_address_that_does_not_answer_is_named(monkeypatch):
    def refuse(path, **options):
        raise OSError("connection refused")

    monkeypatch.setattr("hipie.checkpoint.read.PathManager.get_local_path", refuse)
    with pytest.raises(CheckpointError, match=r"https://x/y\.pth: it could not be fetched"):
        read_state("https://x/y.pth")


def test_addresses_go_through_the_path_manager(tmp_path, monkeypatch):
    save_file(weights(), tmp_path / "kept.safetensors")
    asked = []

    def fetch(path, **options):
        asked.append(path)
        return str(tmp_path / "kept.safetensors")

    monkeypatch.setattr("hipie.checkpoint.read.PathManager.get_local_path", fetch)
    assert read_state("detectron2://a/kept.safetensors")["model"].keys() == weights().keys()
    assert asked == ["detectron2://a/kept.safetensors"]


def test_names_that_are_no_text_and_values_that_are_no_tensors_are_left(tmp_path):
    torch.save(
        OrderedDict([("a", torch.ones(1)), (3, torch.ones(1)), ("b", "text")]), tmp_path / "x.pth"
    )
    assert list(read_state(tmp_path / "x.pth")["model"]) == ["a"]
