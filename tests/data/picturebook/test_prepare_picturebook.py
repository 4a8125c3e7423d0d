from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

_PROGRAM = Path(__file__).parents[3] / "datasets" / "prepare_picturebook.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_picturebook", _PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_program_draws_and_checks(
    program: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    common = ["--root", str(tmp_path), "--split", "val"]
    assert program.main([*common, "--count", "2", "--groups", "0", "--seed", "9"]) == 0
    assert "2/2 pages" in capsys.readouterr().err
    assert program.main([*common, "--check"]) == 0
    assert "are consistent" in capsys.readouterr().out
    (tmp_path / "images/val/000000.jpg").unlink()
    assert program.main([*common, "--check"]) == 1
    assert "000000.jpg is missing" in capsys.readouterr().out


def test_another_seed_is_refused(
    program: ModuleType, small_book: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match=r"^prepare_picturebook\.py: .*seed"):
        program.main(["--root", str(small_book), "--seed", "5", "--count", "2"])
