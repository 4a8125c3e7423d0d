"""Command lines in documents: their parsers accept them, their configurations and keys exist."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from docs.site.commands import _module
from hipie import add_hipie_config, model_zoo
from hipie.cli.data import COMMANDS as DATA_COMMANDS
from hipie.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "datasets/README.md")),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("projects/*/README.md"),
        *ROOT.glob("projects/*/*/weights/README.md"),
        ROOT / "hipie/model_zoo/weights/README.md",
    ]
)
PROGRAM = re.compile(
    r"hipie (?!COMMAND)|python (train_net|demo)\.py|python -m hipie_(interactive|fewshot)\b"
    r"|python datasets/prepare_"
)
# Placeholders for files of the reader's own.
PLACEHOLDERS = ("FILE", "...", "output/")


class Accepted(BaseException):
    """Carries the arguments that a parser has read, past the program's handlers of errors."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        self.arguments = arguments


def command_lines(document: Path) -> Iterator[str]:
    """Commands of blocks of code, without those that show optional parts in brackets."""
    text = document.read_text(encoding="utf-8")
    text = re.sub(r"^```(?:python|yaml|json|mermaid)\n.*?^```$", "", text, flags=re.M | re.S)
    in_fence = False
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    for line in lines:
        if line.startswith("```"):
            in_fence = not in_fence
        if in_fence or line.startswith("    "):
            command = line.strip()
            if PROGRAM.match(command) and not re.search(
                r"\[--|\| xargs| KEY VALUE \.\.\.", command
            ):
                yield command


ALL = [(document, line) for document in DOCUMENTS for line in command_lines(document)]


def read_arguments(command: str, monkeypatch) -> argparse.Namespace:
    """Arguments that the program of a command line reads; a refusal is SystemExit."""
    words = shlex.split(command, comments=True)
    program = None
    if words[0] == "hipie":
        name, arguments = words[1], words[2:]
        if name == "data":
            main = import_module(DATA_COMMANDS[arguments[0]]).main
            arguments = arguments[1:]
        else:
            main = import_module(COMMANDS[name][0]).main
            program = f"hipie {name}" if name in ("train", "demo") else None
    elif words[1] == "-m":
        main, arguments = import_module(f"{words[2]}.__main__").main, words[3:]
    elif words[1] in ("train_net.py", "demo.py"):
        name = "train" if words[1] == "train_net.py" else "demo"
        main, arguments, program = import_module(COMMANDS[name][0]).main, words[2:], words[1]
    else:
        main, arguments = _module(ROOT / words[1]).main, words[2:]
    for method in ("parse_args", "parse_known_args"):
        original = getattr(argparse.ArgumentParser, method)

        def read(self, args=None, namespace=None, original=original, method=method):
            result = original(self, args, namespace)
            if method == "parse_args":
                raise Accepted(result)
            return result

        monkeypatch.setattr(argparse.ArgumentParser, method, read)
    with pytest.raises(Accepted) as accepted:
        main(arguments, *([program] if program else []))
    return accepted.value.arguments


@cache
def defaults():
    """Configuration with all keys."""
    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg


def test_documents_show_many_commands():
    assert len(ALL) > 60
    assert {line.split()[1] for _, line in ALL if line.startswith("hipie ")} >= {
        *("segment", "refer", "group", "train", "show", "app", "serve", "models", "checkpoint"),
        *("data", "export"),
    }


@pytest.mark.parametrize(
    ("document", "command"), ALL, ids=[f"{path.stem}-{n}" for n, (path, _) in enumerate(ALL)]
)
def test_a_command_is_accepted(document, command, monkeypatch):
    arguments = read_arguments(command, monkeypatch)
    config = getattr(arguments, "config_file", None)
    if config and not config.startswith(PLACEHOLDERS):
        beside = ROOT / config
        assert beside.is_file() or model_zoo.get_config_file(config).is_file(), config
    model = getattr(arguments, "model", None)
    if isinstance(model, str) and re.fullmatch(r"(hipie|grser)-[\w-]+", model):
        assert model in model_zoo.MODELS, model
    # A key that does not exist, or a value of another type, is an error here.
    defaults().clone().merge_from_list(getattr(arguments, "opts", None) or [])


def test_a_command_that_does_not_exist_is_noticed(monkeypatch):
    with pytest.raises(SystemExit):
        read_arguments("hipie segment image.jpg --thing car --nothing", monkeypatch)


def test_lines_of_blocks_are_read_and_continued(tmp_path):
    file = tmp_path / "a.md"
    file.write_text(
        "Text hipie segment a\n\n    hipie segment a.jpg \\\n        --things car\n\n"
        "```\npython train_net.py --config-file A\n```\n```python\nhipie = 1\n```\n"
        "    python train_net.py [--resume]\n"
    )
    assert list(command_lines(file)) == [
        "hipie segment a.jpg --things car",
        "python train_net.py --config-file A",
    ]
