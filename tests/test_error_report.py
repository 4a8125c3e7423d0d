"""Errors of programs: one sentence, a known exit status, the traceback in a log alone."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hipie.error_report import (
    as_hipie_errors,
    known_message,
    one_line_errors,
    one_line_message,
    run_program,
)
from hipie.errors import HipieError, InputError, MissingFileError, UnexpectedError, UsageError
from hipie.serve.errors import RequestError


def test_message_of_a_worker_error_is_its_last_line() -> None:
    passed_on = (
        "Caught ValueError in worker 0.\nTraceback (most recent call last):\n  f()\nbad page"
    )
    assert one_line_message(ValueError(passed_on)) == "bad page"
    assert one_line_message(ValueError("a\n  b")) == "a b"
    assert one_line_message(KeyError("no such data set")) == "no such data set"
    assert one_line_message(OSError()) == "OSError"


class Failing(Dataset):
    """Raises an error for every item."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        raise self.error


def test_error_of_a_loader_process_has_its_own_sentence() -> None:
    error = MissingFileError("a.png: there is no such image\nin the folder")
    with pytest.raises(MissingFileError) as raised:
        list(DataLoader(Failing(error), num_workers=1))
    assert known_message(raised.value) == "a.png: there is no such image in the folder"


def test_bug_is_one_line_and_its_traceback_is_in_the_log(capsys) -> None:
    with pytest.raises(SystemExit) as stop, one_line_errors("hipie train"):
        logging.getLogger("hipie.modeling").info("message before")
        warnings.warn("a warning of torch", FutureWarning, stacklevel=1)
        logging.getLogger("torch_geometric").error("message of another package")
        raise RuntimeError("sizes differ\nin the fusion")
    message = str(stop.value)
    assert "\n" not in message and "RuntimeError" in message and "a bug of the program" in message
    assert "sizes differ" not in message, "the words of another package"
    assert capsys.readouterr().err == capsys.readouterr().out == ""
    log = Path(message.rpartition(" ")[2]).read_text()
    assert "Traceback" in log and "in the fusion" in log
    assert "a warning of torch" in log and "message of another package" in log


def test_warnings_of_this_package_are_printed(capsys) -> None:
    with one_line_errors("hipie segment"):
        logging.getLogger("hipie.data").warning("a class has no object")
        logging.getLogger("hipie.data").info("reading")
    assert capsys.readouterr().err == "a class has no object\n"


def test_logging_is_restored() -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level, warnings.showwarning, logging.raiseExceptions
    with pytest.raises(SystemExit), one_line_errors("hipie segment"), one_line_errors("nested"):
        raise InputError("wrong")
    assert before == (
        list(root.handlers),
        root.level,
        warnings.showwarning,
        logging.raiseExceptions,
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [(InputError("a.png: bad"), "p: a.png: bad"), (UsageError("--a needs --b"), 2)],
)
def test_exit_status(error, status, capsys) -> None:
    with pytest.raises(SystemExit) as stop, one_line_errors("p"):
        raise error
    assert stop.value.code == status
    assert status != 2 or capsys.readouterr().err == "p: --a needs --b\n"


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), BrokenPipeError()])
def test_interruptions_have_no_message(stop, capfd) -> None:
    def interrupted() -> int:
        raise stop

    with pytest.raises(SystemExit) as ended:
        run_program("p", interrupted)
    assert ended.value.code == (130 if isinstance(stop, KeyboardInterrupt) else 1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_system_errors_have_sentences_of_this_package(number: int) -> None:
    message = known_message(OSError(number, os.strerror(number), "out/a.png"))
    if message is not None:
        assert message.startswith("out/a.png: ")
        assert os.strerror(number) not in message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "?", "a.json"), "a.json: there is no such file"),
        (OSError(errno.ENOSPC, "?"), "no space left"),
        (MemoryError(), "memory is not sufficient"),
        (torch.OutOfMemoryError("CUDA out of memory."), "memory is not sufficient"),
        (ModuleNotFoundError("?", name="panopticapi.utils"), "package panopticapi is needed"),
        (ImportError("?", name="cv2"), "package cv2 is installed in a version that does not"),
        (KeyError("No object named 'Foo' found in 'META_ARCH' registry!"), 'ARCHITECTURE is "Foo"'),
        (
            KeyError("Dataset 'coco' is not registered! Available datasets are: coco_a, lvis"),
            'no data set "coco"; similar names are coco_a',
        ),
    ],
)
def test_failures_that_are_no_bug_have_sentences(error: Exception, words: str) -> None:
    message = known_message(error)
    assert message is not None and words in message
    assert "\n" not in message and "?" not in message


@pytest.mark.parametrize(
    "error", [KeyError(80), KeyError("iscrowd"), ValueError("x"), ImportError("?", name="hipie.a")]
)
def test_other_errors_are_bugs(error: Exception) -> None:
    assert known_message(error) is None
    with pytest.raises(UnexpectedError, match="this is a bug") as raised, as_hipie_errors():
        raise error
    assert raised.value.__suppress_context__, "the traceback is in the log alone"
    assert type(error).__name__ in Path(str(raised.value).rpartition(" ")[2]).read_text()


def test_python_callers_catch_failures_by_their_builtin_types() -> None:
    failures = [
        FileNotFoundError(errno.ENOENT, "?", "a"),
        PermissionError(errno.EACCES, "?", "a"),
        MemoryError(),
        ModuleNotFoundError("?", name="cv2"),
    ]
    for failure in failures:
        kind = OSError if isinstance(failure, PermissionError) else type(failure)
        with pytest.raises(kind) as raised, as_hipie_errors():
            raise failure
        assert isinstance(raised.value, HipieError)


def test_bug_without_a_writable_folder_has_a_sentence_too(monkeypatch) -> None:
    monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda *_, **__: os.open("/no/file", 0))
    with pytest.raises(SystemExit, match="no log could be written"), one_line_errors("p"):
        raise ValueError


def test_errors_of_this_package_can_be_pickled() -> None:
    for kind in subclasses(HipieError):
        if kind.__module__.startswith("hipie"):
            arguments = (422, "a: b") if kind is RequestError else ("a: b",)
            copy = pickle.loads(pickle.dumps(kind(*arguments)))
            assert str(copy) == "a: b" and type(copy) is kind


def subclasses(kind: type) -> set[type]:
    found = set(kind.__subclasses__())
    return found | {inner for outer in found for inner in subclasses(outer)}
