"""`--allow-http` is an argument of everything that takes a configuration or weights."""

from __future__ import annotations

import argparse
import os

import pytest

from hipie.cli import arguments, checkpoint, demo, segment, train
from hipie.data import dataset_argument


def _data(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    dataset_argument.add_arguments(parser)
    parser.parse_args(words)


def _model(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    arguments.add_model_arguments(parser)
    parser.parse_args(words)


COMMANDS = {
    "segment": (segment._parser().parse_args, ["a.png", "--things", "a"]),
    "refer and group": (_model, []),
    "demo": (demo._parser("hipie demo").parse_args, ["--picture-book", "--output", "out"]),
    "train": (train.parse_arguments, ["--config-file", "a"]),
    "inspect": (checkpoint._parser().parse_args, ["inspect", "a.pth"]),
    "convert": (checkpoint._parser().parse_args, ["convert", "a.pth", "b.pth"]),
    "data": (_data, ["name"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_permit_http_on_request(command, monkeypatch):
    monkeypatch.setenv("HIPIE_ALLOW_HTTP", "0")
    parse, words = COMMANDS[command]
    parse(words)
    assert os.environ["HIPIE_ALLOW_HTTP"] == "0"
    parse([*words, "--allow-http"])
    assert os.environ["HIPIE_ALLOW_HTTP"] == "1"
