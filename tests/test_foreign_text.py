"""Text from files in messages, logs and output: no character of it changes a terminal."""

from __future__ import annotations

import ast
import inspect
import io
import json
import logging
import pickle
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hipie.errors
from hipie.errors import (
    MAX_MESSAGE,
    MAX_NAME,
    HipieError,
    printable,
    printable_lines,
    printable_message,
)
from hipie.logs import PrintableFilter, get_logger
from hipie.modeling.text_encoder.tokenizer import load_tokenizer
from tests.fuzzing import make_model_folder

ROOT = Path(__file__).parents[1]
# Cursor and title sequences, 8-bit controls, line breaks of all kinds, marks of direction.
HOSTILE = "\x1b[2J\x1b]0;x\x07\r\n\u2028\x9b31m\u202e\u2066\udc80\x00end"
# Line breaks of a whole output are ours; nothing else that Unicode counts as control or format.
CONTROL = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def raw_characters(text: str) -> set[str]:
    """Characters that reach a terminal as more than a letter, but for the lines' ends."""
    return {one for one in text if one != "\n" and unicodedata.category(one) in CONTROL}


@given(st.text() | st.text(alphabet=HOSTILE), st.integers(1, 300))
@settings(max_examples=200)
def test_text_becomes_one_printable_line_of_bounded_length(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit + 3
    assert printable(shown, 10 * limit + 3) == shown
    if text.isprintable() and len(text) <= limit:
        assert shown == text


def test_long_text_is_cut_before_it_is_converted():
    assert printable("\x1b" * 10**7) == "\\x1b" * (MAX_NAME // 4) + "..."
    message = printable_message("a.json: " + "x" * 10**7 + " must be a number")
    assert message.startswith("a.json: x")
    assert message.endswith("must be a number")
    assert len(message) < 1.1 * MAX_MESSAGE


ERRORS = [
    kind
    for kind in vars(hipie.errors).values()
    if inspect.isclass(kind) and issubclass(kind, HipieError)
]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_have_printable_messages(kind):
    error = kind(f'{HOSTILE}: the key "{HOSTILE}" is unknown').on_command_line(HOSTILE)
    for text in (str(error), error.command_line, str(pickle.loads(pickle.dumps(error)))):
        assert text.isprintable()
        assert "end" in text


def test_tracebacks_of_other_processes_keep_their_lines():
    text = f"Caught in a worker.\nTraceback (most recent call last):\n  File {HOSTILE}\nE: x"
    message = str(hipie.errors.InputError(text))
    assert len(message.split("\n")) >= 4
    assert not raw_characters(message)


def logged(logger_name, action, filtered_handler=False):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    if filtered_handler:
        handler.addFilter(PrintableFilter())
    logger = logging.getLogger(logger_name)
    logger.addHandler(handler)
    try:
        action()
    finally:
        logger.removeHandler(handler)
    return stream.getvalue()


def test_logs_are_printable_whoever_handles_them():
    def action():
        logger = get_logger("hipie.tests.foreign")
        logger.warning("%s: %d of %.1f (%s)", HOSTILE, 3, 2.5, {HOSTILE: Path(HOSTILE[:-4])})
        logger.warning(HOSTILE)
        logger.warning("%(name)s", {"name": HOSTILE})
        try:
            raise KeyError(HOSTILE)
        except KeyError:
            logger.exception("%s failed", HOSTILE)

    text = logged("hipie.tests", action)
    assert not raw_characters(text)
    assert text.count("\nWARNING: ") == 2
    assert "3 of 2.5" in text
    assert "KeyError" in text


def test_tables_in_logs_keep_their_lines():
    text = logged(
        "hipie.tests",
        lambda: get_logger("hipie.tests.table").warning("Results:\n%s", "a  1\nb\x1b 2"),
    )
    assert text == "WARNING: Results:\na  1\nb\\x1b 2\n"


def test_messages_of_other_packages_are_printable_where_the_handler_has_the_filter():
    text = logged("elsewhere", lambda: logging.getLogger("elsewhere").warning(HOSTILE), True)
    assert not raw_characters(text)


def test_transformers_does_not_log_a_folders_text_as_it_is(tmp_path, monkeypatch):
    """Its handler writes to the terminal by itself."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [handler])
    files = make_model_folder(tmp_path)
    config = json.loads(files[0].read_text())
    files[0].write_text(json.dumps({**config, "model_type": HOSTILE}))
    load_tokenizer.cache_clear()
    load_tokenizer(str(tmp_path))
    logging.getLogger("transformers").warning("a type %s\n%s", HOSTILE, HOSTILE)
    lines = written.getvalue().splitlines()
    assert not raw_characters(written.getvalue())
    assert len(lines) == 2 and "You are using a model of type" in lines[0]
    assert "a type" in lines[1] and lines[1].endswith("end")


def test_every_module_takes_its_logger_from_one_place():
    offenders = [
        f"{path}:{node.lineno}"
        for folder in ("hipie", "projects")
        for path in sorted((ROOT / folder).rglob("*.py"))
        # The operator imports nothing of hipie.
        if path not in (ROOT / "hipie/logs.py", ROOT / "hipie/ops/patching.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node) in ("logging.getLogger(__name__)", "logging.getLogger('hipie')")
    ]
    assert not offenders


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\n")), min_size=1, max_size=4))
def test_lines_are_kept(lines):
    shown = printable_lines("\n".join(lines)).split("\n")
    assert len(shown) == len(lines)
    assert all(line.isprintable() for line in shown)
