"""Readers of every format with files that are changed at random, and those that failed once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzzing import READERS, outcome

ROOT = Path(__file__).parents[1]
SECONDS = 60
# Named READER-WHAT-FILE, of formats that read one file of several.
CASES = sorted((ROOT / "tests/data/fuzzing").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_changed_files_end_in_a_value_or_in_one_sentence(name: str, tmp_path: Path) -> None:
    """In a process with limits on address space and time, which a crash would end."""
    paths = [ROOT, *ROOT.glob("projects/*/")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/fuzzing.py"), name, str(SECONDS), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=20 * SECONDS,
    )
    assert done.returncode == 0, f"see {tmp_path}/last-*: {done.stderr[-3000:]}"
    result = json.loads(done.stdout.splitlines()[-1])
    assert not result["failures"], done.stderr[-6000:]
    assert result["refused"] > 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_files_that_failed_once_do_not_fail_again(case: Path, tmp_path: Path) -> None:
    name, _, file_name = case.name.split("-")
    reader = READERS[name]
    files = {path.name: path for path in reader.make(tmp_path)}
    reader.read(tmp_path)
    files[file_name].write_bytes(case.read_bytes())
    kind, text = outcome(reader, tmp_path)
    assert kind == "refused", text
