"""Export of weights."""

from __future__ import annotations

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from safetensors import safe_open
from torch import nn

from hipie.checkpoint import CheckpointError, load_weights, read_state, save_weights


def test_half_precision_keeps_integers_and_large_values(tmp_path):
    model = nn.BatchNorm1d(3)
    model.running_var.fill_(1e6)
    model.num_batches_tracked.fill_(70_000)
    save_weights(model, tmp_path / "x.safetensors")
    state = read_state(tmp_path / "x.safetensors")["model"]
    assert state["weight"].dtype == torch.float16
    assert state["running_var"].tolist() == [1e6] * 3
    assert state["num_batches_tracked"].item() == 70_000


def test_external_and_excluded_weights_are_left_out(with_packaged, tmp_path):
    save_weights(with_packaged, tmp_path / "x.safetensors", exclude=["last."])
    state = read_state(tmp_path / "x.safetensors")["model"]
    assert {name.split(".")[0] for name in state} == {"first", "norm"}


def test_metadata_describe_the_file(with_packaged, tmp_path):
    save_weights(with_packaged, tmp_path / "x.safetensors", notes={"steps": "9"})
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["steps"] == "9"
    assert metadata["left_out"] == "text_encoder."
    assert metadata["format"] == "pt"
    assert metadata["hipie"]


def test_tensor_with_two_names_is_written_once(make_two, tmp_path):
    model = make_two()
    model.again = model.first
    save_weights(model, tmp_path / "x.safetensors")
    assert not any(
        name.startswith("again") for name in read_state(tmp_path / "x.safetensors")["model"]
    )
    assert load_weights(model, tmp_path / "x.safetensors").complete


def test_detectron2_reads_exported_pth(make_two, tmp_path):
    model, other = make_two(), make_two()
    save_weights(model, tmp_path / "x.pth", half=False)
    DetectionCheckpointer(other).load(str(tmp_path / "x.pth"))
    assert torch.equal(other.last.weight, model.last.weight)


@pytest.mark.parametrize("name", ["x.bin", "x"])
def test_other_suffixes_are_refused(two, tmp_path, name):
    with pytest.raises(CheckpointError, match=r"\.safetensors or \.pth"):
        save_weights(two, tmp_path / name)


def test_nothing_to_write_is_an_error(two, tmp_path):
    with pytest.raises(CheckpointError, match="no tensor"):
        save_weights(two, tmp_path / "x.pth", exclude=[""])
