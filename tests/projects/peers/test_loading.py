"""Sources of networks: folders, models of the table, and what is refused."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import constants, file_download

from hipie import Segmenter, model_zoo
from hipie.errors import InputError
from hipie_peers import models
from hipie_peers.error import PeerError
from hipie_peers.loading import CLIPSEG, ONEFORMER, SAM3, load_network
from hipie_peers.meta_arch import PeerConfig
from tests.model_zoo.hub_server import Hub, serve

THINGS = ["dog", "car"]


def test_random_networks_are_the_same_every_time():
    first, second = (load_network("random:tiny", CLIPSEG)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_files_of_torch_are_read_without_running_their_code(folders, tmp_path):
    folder = tmp_path / "network"
    shutil.copytree(folders("clipseg"), folder)
    network, _ = load_network(str(folder), CLIPSEG)
    (folder / "model.safetensors").unlink()
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    again, _ = load_network(str(folder), CLIPSEG)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(InputError, match="pytorch_model.bin"):
        load_network(str(folder), CLIPSEG)
    assert not (tmp_path / "trapped").exists()


def test_wrong_sources_are_named(folders, tmp_path):
    with pytest.raises(PeerError, match="SOURCE names no network"):
        load_network("", CLIPSEG)
    with pytest.raises(PeerError, match='"no/where" is neither a model .* nor a folder'):
        load_network("no/where", CLIPSEG)
    with pytest.raises(PeerError, match="type 'clipseg', and the configuration needs sam3"):
        load_network(str(folders("clipseg")), SAM3)
    with pytest.raises(InputError, match=r"config\.json: there is no such file"):
        load_network(str(tmp_path), CLIPSEG)
    folder = tmp_path / "network"
    shutil.copytree(folders("clipseg"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(PeerError, match=r"the weights lack clip\.vision_model"):
        load_network(str(folder), CLIPSEG)
    config["vision_config"]["num_hidden_layers"] = 10**9
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="num_hidden_layers"):
        load_network(str(folder), CLIPSEG)
    shutil.copy(folders("clipseg") / "config.json", folder)
    (folder / "processor_config.json").unlink(missing_ok=True)
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    with pytest.raises(PeerError, match=r"the processor \(CLIPSegProcessor\) cannot be loaded"):
        load_network(str(folder), CLIPSEG)


def test_oneformer_asks_for_no_file_of_classes(folders, tmp_path):
    """Its published processors name a file of another repository, which only training reads."""
    folder = tmp_path / "network"
    shutil.copytree(folders("oneformer"), folder)
    changed = False
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).exists():
            config = json.loads((folder / name).read_text())
            inner = config.get("image_processor", config)
            inner["class_info_file"], changed = "ade20k_panoptic.json", True
            (folder / name).write_text(json.dumps(config))
    assert changed
    _, processor = load_network(str(folder), ONEFORMER)
    assert not processor.image_processor.class_info_file


@pytest.mark.parametrize(
    ("key", "value", "limits"),
    [("THRESHOLD", 1.5, "0..1"), ("NMS", -0.1, "0..1"), ("BEAMS", 0, "at least 1")],
)
def test_values_outside_their_range_are_named(key, value, limits):
    cfg = model_zoo.get_config("hipie_peers/clipseg_random.yaml")
    cfg.MODEL.PEERS[key] = value
    with pytest.raises(PeerError, match=f"MODEL.PEERS.{key} is {value}; it has to be .*{limits}"):
        PeerConfig.from_config(cfg)


def test_what_a_network_cannot_do_is_said(build, page):
    with pytest.raises(InputError, match=r"TransformersMask2Former cannot refer\(\)"):
        build("mask2former", "mask2former").refer(page, "a dog")
    with pytest.raises(InputError, match=r"TransformersFlorence2 cannot segment\(\)"):
        build("florence2", "florence2").segment(page, THINGS)
    with pytest.raises(InputError, match='TransformersCLIPSeg has no output="instances"'):
        build("clipseg", "clipseg").segment(page, THINGS, output="instances")
    model = build("clipseg", "clipseg").model
    with pytest.raises(PeerError, match=r"a.jpg: images have to be \[3, H, W\]"):
        model([{"image": torch.zeros(1, 4, 4), "file_name": "a.jpg", "expressions": ["dog"]}])
    try:
        with pytest.raises(PeerError, match="is not trained here"):
            model.train()([{}])
    finally:  # other tests use it
        model.eval()


@pytest.fixture
def hub(folders, tmp_path, monkeypatch):
    """A stand-in of the hub that has the files of a random CLIPSeg under its published name."""
    (model,) = (model for model in models.models() if model.name == "clipseg-rd64")
    repository = model.source.repository
    stand_in = Hub({f"{repository}/{f.name}": f.read_bytes() for f in folders("clipseg").iterdir()})
    stand_in.files[f"{repository}/pytorch_model.bin"] = b"the same in another format"
    stand_in.files[f"{repository}/code.py"] = b"print('never downloaded')"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve(stand_in) as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        yield stand_in


def test_a_model_of_the_table_is_downloaded_and_built(hub, folders, page, monkeypatch):
    segmenter = Segmenter.from_pretrained("clipseg-rd64", "cpu")
    assert segmenter.cfg.MODEL.PEERS.SOURCE == "clipseg-rd64"
    expected, _ = load_network(str(folders("clipseg")), CLIPSEG)
    for name, value in expected.state_dict().items():
        assert torch.equal(segmenter.model.network.state_dict()[name], value)
    requested = {path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET"}
    assert "model.safetensors" in requested and "config.json" in requested
    assert not requested & {"pytorch_model.bin", "code.py"}
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = Segmenter.from_pretrained("clipseg-rd64", "cpu")
    first, second = (s.segment(page, THINGS) for s in (segmenter, again))
    assert np.array_equal(first.masks, second.masks) and first.labels == second.labels


def test_rows_name_configurations_of_the_same_network():
    for model in models.models():
        cfg = model_zoo.get_config(model.config)
        assert cfg.MODEL.PEERS.SOURCE in model_zoo.MODELS
        own = model_zoo.MODELS[cfg.MODEL.PEERS.SOURCE]
        assert own.config == model.config and own.task == model.task
