"""`--allow-http` and `--allow-imports` are arguments of what takes weights or configurations."""

from __future__ import annotations

import argparse
import os

import pytest

from hipie.cli import arguments, checkpoint, dataset_argument, demo, models, segment, train
from hipie_fewshot import __main__ as few_shot
from hipie_interactive import __main__ as interactive


def _data(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    dataset_argument.add_arguments(parser)
    parser.parse_args(words)


def _model(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    arguments.add_model_arguments(parser)
    parser.parse_args(words)


FEW_SHOT = ["--model", "a", "--example", "a.png", "b.png", "--input", "c.png"]
WITH_CONFIGURATION = {
    "segment": (segment._parser().parse_args, ["a.png", "--things", "a"]),
    "refer and group": (_model, []),
    "demo": (demo._parser("hipie demo").parse_args, ["--picture-book", "--output", "out"]),
    "train": (train.parse_arguments, ["--config-file", "a"]),
    "data": (_data, ["name"]),
    "few_shot": (few_shot._parser().parse_args, FEW_SHOT),
}
COMMANDS = {
    **WITH_CONFIGURATION,
    "inspect": (checkpoint._parser().parse_args, ["inspect", "a.pth"]),
    "convert": (checkpoint._parser().parse_args, ["convert", "a.pth", "b.pth"]),
    "models download": (models._parser().parse_args, ["download", "hipie-r50"]),
    "interactive": (interactive._parser().parse_args, ["--image", "a.png"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_permit_http_on_request(command, monkeypatch):
    monkeypatch.setenv("HIPIE_ALLOW_HTTP", "0")
    parse, words = COMMANDS[command]
    parse(words)
    assert os.environ["HIPIE_ALLOW_HTTP"] == "0"
    parse([*words, "--allow-http"])
    assert os.environ["HIPIE_ALLOW_HTTP"] == "1"


@pytest.mark.parametrize("command", WITH_CONFIGURATION)
def test_commands_permit_imports_on_request(command, monkeypatch):
    monkeypatch.setenv("HIPIE_ALLOW_IMPORTS", "0")
    parse, words = WITH_CONFIGURATION[command]
    parse(words)
    assert os.environ["HIPIE_ALLOW_IMPORTS"] == "0"
    parse(["--allow-imports", *words])
    assert os.environ["HIPIE_ALLOW_IMPORTS"] == "1"
