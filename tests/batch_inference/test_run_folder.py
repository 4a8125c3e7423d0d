"""State of a run in a folder from elsewhere: what is not ours is left out, or one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hipie.batch_inference.run_folder import RunFolder
from hipie.errors import HipieError, InputError
from tests.fuzzing import RUN, make_run_folder
from tests.limits import call_limited


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_run_folder(tmp_path)
    return tmp_path / "out"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    file = folder / ".hipie/records.jsonl"
    first, *others = file.read_text().splitlines()
    record = json.loads(first)
    edit(record)
    file.write_text("\n".join([json.dumps(record), *others]) + "\n")


def names(folder: Path) -> dict[str, str]:
    with RunFolder(folder, RUN) as run:
        return run.known_names()


def test_records_are_read_as_they_were_written(folder: Path) -> None:
    with RunFolder(folder, RUN) as run:
        (record,) = run.records()
        assert [segment.label for segment in record.walk()] == ["dog", "head", "sky"]
        assert list(run.known_names().values()) == ["a"]
        assert run.frames_of("/clip.mp4", 2, (1, 2)) == []


@pytest.mark.parametrize("name", ["../a", "/tmp/a", "a/../../b", "a//b", "", "./a", "a\0", 3, None])
def test_names_of_outputs_stay_in_the_folder(name: Any, folder: Path) -> None:
    change(folder, lambda record: record.update(name=name))
    assert names(folder) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", [1, 2, 3]),
        ("version", [1.5, True]),
        ("source", ["x"]),
        ("result", [1]),
        ("image_id", {}),
    ],
)
def test_records_of_other_types_are_not_known(key: str, value: Any, folder: Path) -> None:
    change(folder, lambda record: record.update({key: value}))
    assert names(folder) == {}


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else []


@pytest.mark.parametrize(
    "entry",
    [
        {"segmentation": {"size": [60000, 60000], "counts": [3600000000]}},
        {"segmentation": {"size": [16, 24], "counts": "PPPPPPPPPPP"}},
        {"segmentation": {"size": [16, 24], "counts": [500]}},
        {"segmentation": [[1, 1, 5, 5, 1, 5]]},
        {"score": float("nan")},
        {"score": "1"},
        {"category": "\ud800"},
        {"category": None},
        {"kind": 3},
        {"parts": [[]]},
    ],
)
def test_masks_are_checked_before_they_are_decoded(entry: dict[str, Any], folder: Path) -> None:
    change(folder, lambda record: record["result"]["segments"][0].update(entry))
    with RunFolder(folder, RUN) as run:
        outcome = call_limited(list, run.records(), mebibytes=128)
    assert outcome.startswith("InputError: ") and "the record at byte 0 is damaged" in outcome
    assert outcome.isprintable()


def test_an_image_of_billions_of_pixels_is_not_believed(folder: Path) -> None:
    change(folder, lambda r: r["result"]["image"].update(height=100_000, width=100_000))
    with RunFolder(folder, RUN) as run, pytest.raises(InputError, match="is damaged"):
        list(run.records())


@pytest.mark.parametrize(
    "line",
    [
        '{"file": {}, "error": "x"}',
        '{"file": [1], "error": "x"}',
        '{"file": 3, "error": "x"}',
        '{"file": "a\\u0000b", "error": "x"}',
        '{"file": "a", "frame": [], "error": "x"}',
        "[" * 100_000,
        "1",
        "null",
    ],
)
def test_lines_of_errors_that_are_not_ours_are_left_out(line: str, folder: Path) -> None:
    (folder / "errors.jsonl").write_text(f"{line}\n")
    with RunFolder(folder, RUN) as run:
        run.start_errors(["/other.png"])
    assert not (folder / "errors.jsonl").exists() or line in (folder / "errors.jsonl").read_text()


@pytest.mark.parametrize("name", ["settings.json", "classes.json", "records.jsonl"])
def test_state_of_other_kinds_is_one_sentence(name: str, folder: Path) -> None:
    file = folder / ".hipie" / name
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(HipieError, match=f"{name}: this is not a regular file"):
        RunFolder(folder, RUN)
    file.unlink()
    if name != "records.jsonl":
        for text in ("[" * 100_000, "[]", "{"):
            file.write_text(text)
            with pytest.raises(HipieError, match=name):
                RunFolder(folder, RUN)
