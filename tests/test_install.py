"""Installation by make: pinned, complete, with a message for every failure."""

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
    versions = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate({"python_version": python}):
                (version,) = pin.specifier
                assert version.operator == "==", line
                assert canonicalize_name(pin.name) not in versions, f"two pins of {line}"
                versions[canonicalize_name(pin.name)] = version.version
    return versions


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_within_its_range(python):
    pinned = pins(python)
    requirements = program("requirements").requirements
    for text in {*requirements(["all"]), *requirements(["docs", "notebooks"])}:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"constraints.txt does not pin {name}"
        assert requirement.specifier.contains(pinned[name]), f"{name}=={pinned[name]} is not {text}"


def test_requirements_are_those_of_the_requested_extras():
    requirements = program("requirements").requirements
    assert any(name.startswith("mypy") for name in requirements(["lint"]))
    assert not any(name.startswith("pytest") for name in requirements([]))
    assert any(name.startswith("pytest") for name in requirements(["test"]))
    assert set(requirements(["clip"])) <= set(requirements(["all"]))
    left_out = ("detectron2", "wandb", "mlflow", "mkdocs", "nbmake", "ray", "moto")
    assert not any(name.startswith(left_out) for name in requirements(["all"]))
    assert any(name.startswith("wandb") for name in requirements(["wandb"]))
    assert any(name.startswith("ray") for name in requirements(["ray"]))


def test_vulnerabilities_are_listed_and_end_with_status_1(monkeypatch, capsys):
    audit = program("audit_requirements")
    package = {
        "name": "pillow",
        "version": "1.0",
        "vulns": [{"id": "X-1", "fix_versions": ["2.0"]}],
    }
    unknown = {"name": "ours", "skip_reason": "not found"}
    answers = {"pypi": [unknown], "osv": [package, unknown]}
    monkeypatch.setattr(audit, "ask", answers.get)
    assert audit.main() == 1
    printed = capsys.readouterr().out
    assert "1 packages" in printed and "pillow 1.0: X-1, fixed in 2.0" in printed
    answers["osv"] = [{**package, "vulns": []}]
    assert audit.main() == 0
    assert "no known vulnerability" in capsys.readouterr().out
    answers["osv"] = []
    assert audit.main() == 0
    assert capsys.readouterr().out.startswith("skipped: ")


def test_services_that_do_not_answer_are_no_error(monkeypatch):
    audit = program("audit_requirements")
    done = subprocess.CompletedProcess([], 1, stdout="Traceback", stderr="")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: done)
    assert audit.ask("osv") == []


def test_an_importable_detectron2_is_kept(monkeypatch, capsys):
    installer = program("get_detectron2")
    monkeypatch.setattr(sys, "argv", ["get_detectron2.py"])
    monkeypatch.setattr(installer.subprocess, "run", lambda command: pytest.fail(str(command)))
    installer.main()
    assert "stays as it is" in capsys.readouterr().out


def test_the_wheel_is_installed_without_its_programs(tmp_path, monkeypatch):
    installer = program("get_detectron2")

    def unpack(command: list[str], failure: str) -> None:
        (target,) = [part for part in command if part.startswith("--target=")]
        staging = Path(target.removeprefix("--target="))
        for name in ("detectron2/__init__.py", "tools/train_net.py"):
            (staging / name).parent.mkdir(parents=True)
            (staging / name).write_text("")
        metadata = staging / "sal_detectron2-0.7.2.dist-info"
        metadata.mkdir()
        (metadata / "RECORD").write_text("detectron2/__init__.py,,\ntools/train_net.py,,\n")

    monkeypatch.setattr(installer, "run", unpack)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "of_others.py").write_text("")
    installer.install_release(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["detectron2", "sal_detectron2-0.7.2.dist-info", "tools"]
    assert os.listdir(tmp_path / "tools") == ["of_others.py"]
    record = (tmp_path / "sal_detectron2-0.7.2.dist-info/RECORD").read_text()
    assert record == "detectron2/__init__.py,,\n"


def test_a_failed_step_is_named_with_its_remedy():
    with pytest.raises(SystemExit, match=r"Step 4, Detectron2, .*run make again"):
        program("get_detectron2").run([sys.executable, "-c", "raise SystemExit(3)"], "failed")


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


@needs_make
def test_an_unsupported_python_is_named(tmp_path):
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make(f"PYTHON={old}", f"VENV={tmp_path}/venv", "install")
    assert done.returncode
    assert f"{old} is not Python 3.11, 3.12 or 3.13" in done.stdout
    assert not (tmp_path / "venv").exists()


@needs_make
def test_a_missing_python_or_compiler_is_reported(tmp_path):
    done = make("PYTHON=", f"VENV={tmp_path}/venv", "install")
    assert "No Python 3.11, 3.12 or 3.13 was found" in done.stdout
    done = make(f"PYTHON={sys.executable}", f"VENV={tmp_path}/venv", "CXX=no-such-c++", "install")
    assert "There is no C++ compiler" in done.stdout


@needs_make
def test_every_documented_make_target_exists():
    documented = re.findall(
        r"make ([a-z-]+) ", (ROOT / "Makefile").read_text().split("PYTHON ?=")[0]
    )
    assert {"demo", "test", "bench", "lint", "coverage", "slow"} <= set(documented)
    for target in documented:
        done = make("--dry-run", f"PYTHON={sys.executable}", target)
        assert not done.returncode, done.stderr


def test_a_supported_python_is_detected():
    done = subprocess.run(
        ["sh", "install/find_python.sh"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert done.stdout.strip() in ("python3", "python", "python3.13", "python3.12", "python3.11")


def test_make_bench_runs_every_benchmark():
    """All but those that train, need external weights, photographs or a GPU, or are parts."""
    named = set(re.findall(r"benchmarks/(\w+)\.py", (ROOT / "Makefile").read_text()))
    excluded = {"ablations", "hipie_ablations", "grser_ablations", "refersam_ablations"}
    excluded |= {"clip_sweep", "name_order", "photographs", "open_vocabulary_photographs"}
    excluded |= {"fewer_labels", "reasoning", "referring_chance", "tag_masks", "gpu"}
    modules = {"arms", "hipie_stages", "published_computation"}
    assert named | excluded | modules == {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    assert not named & (excluded | modules)


@pytest.mark.parametrize(
    ("message", "conforms"),
    [
        ("feat(data): read LVIS v1", True),
        ("refactor!: move modules", True),
        ("fix(engine, data)!: resume\n\nBecause.", True),
        ("Merge branch 'x'", True),
        ("# a comment\ndocs: say it", True),
        ("Add things", False),
        ("feature: read LVIS", False),
        ("fix:no space", False),
        ("fix: " + "x" * 100, False),
        ("fix: a thing\nwithout an empty line", False),
        ("", False),
    ],
)
def test_commit_messages_follow_conventional_commits(message, conforms):
    problem = program("check_commit_message").problem(message)
    assert (problem is None) == conforms, problem


def test_pre_commit_hooks_need_no_network():
    import yaml

    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert {repository["repo"] for repository in hooks["repos"]} == {"local"}
    for hook in hooks["repos"][0]["hooks"]:
        assert hook["language"] == "system", hook["id"]
        program_name = hook["entry"].split()[0]
        assert shutil.which(program_name, path=Path(sys.executable).parent), program_name


def test_workflow_actions_are_pinned_to_commits():
    for file in (ROOT / ".github/workflows").glob("*.yml"):
        used = re.findall(r"uses: (\S+)", file.read_text())
        assert used
        for action in used:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), f"{file.name}: {action}"


def test_the_version_is_the_same_everywhere():
    import hipie

    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {hipie.__version__}\n" in citation
    assert f"## {hipie.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "hipie/py.typed").is_file()
