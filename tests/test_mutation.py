"""Mutation testing: mutants are valid, reproducible, and served by the import system."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutation

FILE = "hipie/ops/grid_sample.py"
MODULE = "hipie.ops.grid_sample"


def test_target_modules_and_their_tests_exist():
    missing = [module for module in mutation.TARGETS if not (mutation.ROOT / module).is_file()]
    missing += [
        f"tests/{test}"
        for tests in mutation.TARGETS.values()
        for test in tests
        if not (mutation.ROOT / "tests" / test).is_file()
    ]
    assert not missing


def test_mutants_are_valid_different_and_reproducible():
    first = list(mutation.draw([FILE], 12, seed=3))
    assert first == list(mutation.draw([FILE], 12, seed=3))
    assert first != list(mutation.draw([FILE], 12, seed=4))
    source = (mutation.ROOT / FILE).read_text()
    assert len({mutant.source for mutant in first}) == 12
    for mutant in first:
        ast.parse(mutant.source)
        assert mutant.source != source
        assert mutation.diff(mutant).count("\n") >= 1


def test_changes_of_annotations_do_not_count():
    before = "def f(x: int | None) -> int | None:\n    y: int | str = x\n    return y\n"
    assert not mutation.behaves_differently(before, before.replace("|", "&"))
    assert mutation.behaves_differently(before, before.replace("= x", "= -x"))
    assert not mutation.behaves_differently(before, before.replace("return y", "return +"))


def test_the_changed_source_is_imported(monkeypatch):
    package = importlib.import_module("hipie.ops")
    original = importlib.import_module(MODULE)
    monkeypatch.setattr(package, "grid_sample", original)  # restored at the end
    monkeypatch.delitem(sys.modules, MODULE)
    importer = mutation.ChangedSource(FILE, "VALUE = 'changed'\n")
    monkeypatch.setattr(sys, "meta_path", [importer, *sys.meta_path])
    changed = importlib.import_module(MODULE)
    assert changed.VALUE == "changed"
    assert Path(changed.__file__).name == "grid_sample.py"
    assert importer.find_spec("hipie.ops.reference") is None
    assert changed is not original


@pytest.mark.slow
def test_the_program_prints_a_score():
    command = [sys.executable, "tests/mutation.py", "--mutants", "3", "--modules", "iou"]
    command += ["--at-least", "0"]
    done = subprocess.run(command, cwd=mutation.ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "iou.py: 3 of 3" in done.stdout or "SURVIVED" in done.stdout
    assert "percent of 3 (at least 0)" in done.stdout
