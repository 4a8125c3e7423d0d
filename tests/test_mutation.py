"""The mutation tester draws real changes, the same ones for a seed, and notices what tests do."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutation

FILE = "hipie/modeling/criterion/dice.py"


def test_every_module_and_its_tests_are_there():
    for module, tests in mutation.TARGETS.items():
        assert (mutation.ROOT / module).is_file(), module
        for test in tests:
            assert (mutation.ROOT / "tests" / test).is_file(), test


def test_mutants_are_valid_different_and_drawn_by_seed():
    first = list(mutation.draw([FILE], 12, seed=3))
    assert first == list(mutation.draw([FILE], 12, seed=3))
    assert first != list(mutation.draw([FILE], 12, seed=4))
    source = (mutation.ROOT / FILE).read_text()
    assert len({mutant.source for mutant in first}) == 12
    for mutant in first:
        ast.parse(mutant.source)
        assert mutant.source != source
        assert mutation.shown(mutant).count("\n") >= 1


def test_changes_of_annotations_do_not_count():
    before = "def f(x: int | None) -> int | None:\n    y: int | str = x\n    return y\n"
    assert not mutation.behaves_differently(before, before.replace("|", "&"))
    assert mutation.behaves_differently(before, before.replace("= x", "= -x"))
    assert not mutation.behaves_differently(before, before.replace("return y", "return +"))


def test_the_changed_source_is_what_is_imported(monkeypatch):
    name = "hipie.modeling.criterion.dice"
    monkeypatch.delitem(sys.modules, name, raising=False)
    importer = mutation.ChangedSource(FILE, "SAID = 'changed'\n")
    monkeypatch.setattr(sys, "meta_path", [importer, *sys.meta_path])
    changed = importlib.import_module(name)
    assert changed.SAID == "changed" and Path(changed.__file__).name == "dice.py"
    assert importer.find_spec("hipie.modeling.criterion.focal") is None
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[1:])
    again = importlib.import_module(name)
    import hipie.training

    hipie.modeling.criterion.dice = again
    assert callable(again.dice)


@pytest.mark.slow
def test_the_program_prints_a_score():
    command = [sys.executable, "tests/mutation.py", "--mutants", "3", "--modules", "dice"]
    command += ["--at-least", "0"]
    done = subprocess.run(command, cwd=mutation.ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "dice.py: 3 of 3" in done.stdout or "SURVIVED" in done.stdout
    assert "percent of 3 (at least 0)" in done.stdout
