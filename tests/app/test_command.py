"""Command line of `hipie app`: models, and what is refused before the page is there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from hipie.app.models import ModelSpec, named_model
from hipie.cli import app
from hipie.cli.main import main
from hipie.errors import HipieError, InputError
from hipie.predictor import Segmenter

PHOTOS, PAGES = "hipie-nano-photos", "hipie-nano-picturebook"
CONFIG = "nano/hipie_nano_picturebook.yaml"
CLICK_MODEL = "hipie_interactive/sam_random_picturebook.yaml"


def models(*arguments: str):
    """Models of a command line."""
    return app._models(app._parser().parse_args(arguments))


def test_models_of_the_table_are_offered_and_a_given_one_is_the_first():
    text = models().text
    assert [spec.name for spec in text[:1]] == [PHOTOS]
    assert PAGES in {spec.name for spec in text}
    assert [spec.name for spec in models("--model", PAGES).text].count(PAGES) == 1
    first = models("--model", PAGES, "--opts", "MODEL.HIPIE.OVERLAP_THRESHOLD", "0.5").text[0]
    assert (first.source, first.is_config) == (PAGES, False)
    assert first.options == ("MODEL.HIPIE.OVERLAP_THRESHOLD", "0.5")


def test_a_configuration_has_weights_and_options(tmp_path):
    weights = tmp_path / "model.pth"
    weights.touch()
    given = ["--config-file", CONFIG, "--weights", str(weights)]
    first = models(*given, "--opts", "MODEL.HIPIE.OVERLAP_THRESHOLD", "0.5").text[0]
    options = ("MODEL.HIPIE.OVERLAP_THRESHOLD", "0.5")
    assert first == ModelSpec(CONFIG, CONFIG, True, str(weights), options)
    alone = models("--weights", str(weights)).text[0]
    assert (alone.name, alone.source, alone.is_config) == (str(weights), app.DEFAULT_CONFIG, True)


def test_options_without_a_model_are_those_of_the_default():
    first, *others = models("--opts", "MODEL.HIPIE.OVERLAP_THRESHOLD", "0.5").text
    assert first.name == PHOTOS and first.options == ("MODEL.HIPIE.OVERLAP_THRESHOLD", "0.5")
    assert all(spec.options == () for spec in others)


def test_precision_and_compilation_are_those_of_every_text_model(monkeypatch):
    chosen = models("--precision", "bfloat16", "--compile", "--click-model", CLICK_MODEL)
    assert {(spec.precision, spec.compile) for spec in chosen.text} == {("bfloat16", True)}
    assert (chosen.click.precision, chosen.click.compile) == (None, False)
    calls = []
    for name in ("from_pretrained", "from_config"):
        monkeypatch.setattr(Segmenter, name, lambda *given, **how: calls.append((given, how)))
    chosen.text[0].load("cpu")
    chosen.click.load("cpu")
    assert calls == [
        ((PHOTOS, "cpu", ()), {"precision": "bfloat16", "compile": True}),
        ((CLICK_MODEL, None, "cpu", ()), {"precision": None, "compile": False}),
    ]


def test_threads_are_those_of_pytorch(monkeypatch):
    import torch

    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr("hipie.engine.malloc.keep_freed_memory", lambda: given.append("kept"))
    app._prepare_torch(app._parser().parse_args(["--threads", "3", "--device", "cpu"]))
    assert given == [3, "kept"]


@pytest.mark.parametrize(
    ("source", "is_config"),
    [
        (CLICK_MODEL, True),
        (CLICK_MODEL.removesuffix(".yaml"), True),
        ("mine.yaml", True),
        (PAGES, False),
        ("owner/name", False),
    ],
)
def test_names_are_those_of_models_or_configurations(source, is_config):
    spec = named_model(source, ["A", "1"])
    assert (spec.source, spec.is_config, spec.options) == (source, is_config, ("A", "1"))


def test_a_folder_is_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").mkdir()
    assert not named_model("mine.yaml").is_config
    with pytest.raises(HipieError):
        named_model("mine.yaml").check()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "hipie-nano-pictures"], 'no model "hipie-nano-pictures"'),
        (["--config-file", "nano/none.yaml"], 'no configuration "nano/none.yaml"'),
        (["--weights", "none.pth"], "none.pth: there is no such file"),
        (["--click-model", "none.yaml"], 'no configuration "none.yaml"'),
        (["--example-model", CLICK_MODEL, "--example-opts", "NO.KEY 1"], "NO.KEY"),
        (["--opts", "NO.KEY", "1"], "NO.KEY"),
        (["--device", "abacus"], "the device 'abacus' does not exist"),
        (["--max-pixels", "0"], "have to be at least 1"),
        (["--port", "70000"], "ports are from 0 to 65535"),
        (["--model", PAGES, "--weights", "a.pth"], "has a weights of its own"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_before_the_page_is_there(
    arguments, message, monkeypatch, capsys
):
    monkeypatch.setattr("hipie.app.server.run", lambda *_, **__: pytest.fail("the page started"))
    with pytest.raises(SystemExit) as stop:
        main(["app", "--port", "0", *arguments])
    text = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert message in text and len(text.strip().splitlines()) == 1


def test_a_configuration_beside_the_folder_of_a_training_is_refused(tmp_path):
    with pytest.raises(InputError, match="leave --config-file out"):
        models("--config-file", CONFIG, "--weights", str(tmp_path))


def test_a_port_in_use_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SystemExit) as stop:
        main(["app", "--port", str(other.getsockname()[1])])
    assert "cannot be opened: the network address is in use; choose another by" in stop.value.code


def test_hosts_that_other_machines_reach_are_told(monkeypatch, capsys):
    monkeypatch.setattr("hipie.app.server.run", lambda *_, **__: 0)
    assert main(["app", "--host", "0.0.0.0", "--port", "0"]) == 0
    assert "0.0.0.0 is reached by other machines, and the page has no login" in (
        capsys.readouterr().err
    )
    assert main(["app", "--port", "0"]) == 0
    assert capsys.readouterr().err == ""


def test_without_gradio_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main(["app"])
    assert 'the package gradio, which is not installed: pip install "hipie[app]"' in stop.value.code
