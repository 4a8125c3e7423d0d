"""The command line: how words are separated, and errors of one line."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

from hipie import cli, doctor
from hipie.cli import main, parse_names, parse_parts


def test_classes_and_synonyms() -> None:
    assert parse_names("car; dog, puppy ;") == [("car",), ("dog", "puppy")]
    assert parse_names("") == []


def test_parts_by_whole() -> None:
    assert parse_parts("car: wheel, window; dog: head") == {
        "car": ["wheel", "window"],
        "dog": ["head"],
    }


@pytest.mark.parametrize("text", ["wheel", ": wheel", "car:"])
def test_parts_without_whole_or_names_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="whole: part"):
        parse_parts(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "nowhere.jpg", "--things", "dog", "--config-file", "no_such_config"],
        ["refer", "nowhere.jpg", "the dog", "--config-file", "no_such_config"],
        ["segment", "nowhere.jpg", "--parts", "wheel"],
    ],
)
def test_bad_input_ends_with_one_line(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, str)
    assert len(stop.value.code.splitlines()) == 1


def test_the_doctor_is_a_command(monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "report", lambda: (["all is well"], True))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == "all is well\n"


def test_every_command_that_is_listed_is_there() -> None:
    for module in cli._MODULES.values():
        command = importlib.import_module(module).main
        assert len(inspect.signature(command).parameters) == 1, module


def test_ctrl_c_is_quiet(monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_segmenter", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["segment", "page.png", "--things", "dog"])
    assert stop.value.code == 130


def test_the_module_runs_and_lists_its_commands() -> None:
    command = [sys.executable, "-m", "hipie.cli", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("segment", "refer", "group", "doctor", "checkpoint", "data"):
        assert name in shown
