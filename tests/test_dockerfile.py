"""The container file: its commands are the documented installation; it runs without rights."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))


def instructions(name: str) -> list[str]:
    """Arguments of all instructions of a name, in order."""
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, flags=re.MULTILINE)


def installation() -> list[str]:
    """Commands of the last stage that install the package."""
    return [line for line in instructions("RUN") if re.match(r"pip|python install/", line)]


def test_commands_are_those_of_the_document():
    text = (ROOT / "docs/serve.md").read_text(encoding="utf-8")
    block = text.split("<!-- installation -->\n\n")[1].split("\n\n")[0]
    assert [line.strip() for line in block.splitlines()] == installation()


def test_commands_are_the_steps_of_make():
    """With the extras of the service in place of all, and not editable."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Makefile").read_text(encoding="utf-8"))
    text = text.partition("\ndemo:")[0]  # further targets install packages of their own
    for before, after in (
        ("$(PY)", "python"),
        ("$(PIP)", "pip install"),
        ("requirements.py all", "requirements.py detectron2 serve"),
        ("--editable .", "."),
        (" $(if $(filter upstream,$(DETECTRON2)),--upstream)", ""),
    ):
        assert before in text
        text = text.replace(before, after)
    steps = re.findall(r"^\t@((?:pip install|python install/).*?)(?: \|\| .*| && .*|)$", text, re.M)
    assert sorted(steps) == sorted(installation())


def test_the_process_has_no_rights_of_root():
    (user,) = instructions("USER")
    assert user == "hipie"
    after = DOCKERFILE.split("USER hipie")[1]
    assert "RUN" not in after and "USER" not in after
    assert re.search(r"useradd .*--uid [1-9]\d+ hipie", DOCKERFILE)


def test_the_entry_point_is_a_command_line_of_the_service():
    from hipie.cli import serve

    (entry,) = instructions("ENTRYPOINT")
    program, command, *arguments = json.loads(entry)
    assert (program, command) == ("hipie", "serve")
    args = serve._parser().parse_args(arguments)
    assert args.host == "0.0.0.0" and str(args.port) in instructions("EXPOSE")


def test_both_variants_have_a_stage():
    stages = [shlex.split(line) for line in instructions("FROM")]
    assert [stage[-1] for stage in stages] == ["cpu", "cuda", "${DEVICE}"]
    assert re.search(r"^ARG DEVICE=cpu$", DOCKERFILE.split("FROM")[0], flags=re.MULTILINE)


@pytest.mark.parametrize("path", ["setup.py", "constraints.txt", "install", "hipie", "projects"])
def test_what_the_installation_needs_is_copied(path):
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert (ROOT / path).exists() and path not in ignored
