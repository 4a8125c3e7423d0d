"""What make installs: pinned, complete, and said when it fails."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def program(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "install" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(python: str) -> dict[str, str]:
    """Versions of constraints.txt for one Python."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            one = Requirement(line)
            if one.marker is None or one.marker.evaluate({"python_version": python}):
                (version,) = one.specifier
                assert version.operator == "==", line
                assert canonicalize_name(one.name) not in found, f"two pins of {line}"
                found[canonicalize_name(one.name)] = version.version
    return found


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_within_its_range(python):
    pinned = pins(python)
    for text in program("requirements").requirements(["all"]):
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        assert name in pinned, f"constraints.txt does not pin {name}"
        assert wanted.specifier.contains(pinned[name]), f"{name}=={pinned[name]} is not {text}"


def test_requirements_are_those_of_the_extras_asked_for():
    requirements = program("requirements").requirements
    assert not any(name.startswith("pytest") for name in requirements([]))
    assert any(name.startswith("pytest") for name in requirements(["test"]))
    assert set(requirements(["clip"])) <= set(requirements(["all"]))
    assert not any(name.startswith("detectron2") for name in requirements(["all"]))


def test_an_importable_detectron2_is_kept(monkeypatch, capsys):
    installer = program("get_detectron2")
    monkeypatch.setattr(sys, "argv", ["get_detectron2.py"])
    monkeypatch.setattr(installer.subprocess, "run", lambda command: pytest.fail(str(command)))
    installer.main()
    assert "stays as it is" in capsys.readouterr().out


def test_the_wheel_is_taken_without_its_programs(tmp_path, monkeypatch):
    installer = program("get_detectron2")

    def unpack(command: list[str], failure: str) -> None:
        (target,) = [part for part in command if part.startswith("--target=")]
        staged = Path(target.removeprefix("--target="))
        for name in ("detectron2/__init__.py", "tools/train_net.py"):
            (staged / name).parent.mkdir(parents=True)
            (staged / name).write_text("")
        notes = staged / "sal_detectron2-0.7.2.dist-info"
        notes.mkdir()
        (notes / "RECORD").write_text("detectron2/__init__.py,,\ntools/train_net.py,,\n")

    monkeypatch.setattr(installer, "run", unpack)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "of_others.py").write_text("")
    installer.install_release(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["detectron2", "sal_detectron2-0.7.2.dist-info", "tools"]
    assert os.listdir(tmp_path / "tools") == ["of_others.py"]
    record = (tmp_path / "sal_detectron2-0.7.2.dist-info/RECORD").read_text()
    assert record == "detectron2/__init__.py,,\n"


def test_a_failed_step_says_which_and_what_to_do():
    with pytest.raises(SystemExit, match=r"Step 4, Detectron2, .*run make again"):
        program("get_detectron2").run([sys.executable, "-c", "raise SystemExit(3)"], "failed")


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


@needs_make
def test_a_python_that_is_not_supported_is_named(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make(f"PYTHON={old}", f"VENV={tmp_path}/venv", "install")
    assert done.returncode
    assert f"{old} is not Python 3.11, 3.12 or 3.13" in done.stdout
    assert not (tmp_path / "venv").exists()


@needs_make
def test_no_python_and_no_compiler_are_said(tmp_path):
    done = make("PYTHON=", f"VENV={tmp_path}/venv", "install")
    assert "No Python 3.11, 3.12 or 3.13 was found" in done.stdout
    done = make(f"PYTHON={sys.executable}", f"VENV={tmp_path}/venv", "CXX=no-such-c++", "install")
    assert "There is no C++ compiler" in done.stdout


@needs_make
def test_every_target_that_the_makefile_explains_exists():
    explained = re.findall(
        r"make ([a-z-]+) ", (ROOT / "Makefile").read_text().split("PYTHON ?=")[0]
    )
    assert {"demo", "test", "bench", "lint", "coverage", "slow"} <= set(explained)
    for target in explained:
        done = make("--dry-run", f"PYTHON={sys.executable}", target)
        assert not done.returncode, done.stderr


def test_a_supported_python_is_found():
    found = subprocess.run(
        ["sh", "install/find_python.sh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert found.stdout.strip() in ("python3", "python", "python3.13", "python3.12", "python3.11")


def test_the_benchmarks_that_make_runs_are_there():
    """All but those that train, sweep somebody's own weights, or are rooms of another one."""
    named = set(re.findall(r"benchmarks/(\w+)\.py", (ROOT / "Makefile").read_text()))
    left_out = {"ablations", "grser_ablations", "refersam_ablations", "clip_sweep", "name_order"}
    rooms = {"arms", "hipie_stages", "published_way"}
    assert named | left_out | rooms == {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert not named & (left_out | rooms)
