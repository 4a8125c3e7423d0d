from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[1] / "setup_extension.py"


@pytest.fixture
def setup_extension(monkeypatch):
    monkeypatch.chdir(FILE.parent)
    for name in ("HIPIE_CUDA", "FORCE_CUDA"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("setup_extension", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def compiler(setup_extension, monkeypatch, tmp_path):
    """A CUDA compiler that fails, and a torch that was made for CUDA."""
    file = tmp_path / "bin" / "nvcc"
    file.parent.mkdir()
    file.write_text("#!/bin/sh\nexit 1\n")
    file.chmod(0o755)
    monkeypatch.setattr(setup_extension, "CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_cuda_is_built_where_it_can_run_or_is_forced(setup_extension, compiler, monkeypatch):
    assert not setup_extension.wants_cuda()
    monkeypatch.setenv("FORCE_CUDA", "1")
    assert setup_extension.wants_cuda()
    monkeypatch.setenv("HIPIE_CUDA", "0")
    assert not setup_extension.wants_cuda()
    monkeypatch.delenv("FORCE_CUDA")
    monkeypatch.delenv("HIPIE_CUDA")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert setup_extension.wants_cuda()


def test_forcing_cuda_without_a_compiler_is_said(setup_extension, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(setup_extension, "CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("FORCE_CUDA", "1")
    assert not setup_extension.wants_cuda() or torch.version.cuda is None
    if torch.version.cuda is not None:
        assert "no CUDA compiler" in capsys.readouterr().out


def test_the_cpu_part_is_every_file_of_its_folder(setup_extension, monkeypatch):
    monkeypatch.setenv("HIPIE_CUDA", "0")
    (module,), commands = setup_extension.extensions()
    assert module.name == "hipie.ops._C"
    assert len(module.sources) == len(list(FILE.parent.glob("hipie/ops/csrc/cpu/*.cpp")))
    assert not any("fast-math" in flag for flag in module.extra_compile_args)
    assert commands["build_ext"] is setup_extension.OperatorBuild


def test_a_cuda_part_that_fails_leaves_the_cpu_part(setup_extension, monkeypatch, capsys):
    from setuptools import Distribution, Extension

    built = []

    def build(self):
        if self.extensions[0].name == setup_extension.CUDA_MODULE:
            raise RuntimeError("Error compiling objects for extension\nmany lines")
        built.extend(module.name for module in self.extensions)

    monkeypatch.setattr(setup_extension.BuildExtension, "build_extensions", build)
    command = setup_extension.OperatorBuild(Distribution())
    command.extensions = [
        Extension(setup_extension.CPU_MODULE, []),
        Extension(setup_extension.CUDA_MODULE, []),
    ]
    command.build_extensions()
    assert built == [setup_extension.CPU_MODULE]
    assert [module.name for module in command.extensions] == [setup_extension.CPU_MODULE]
    printed = capsys.readouterr().out.strip()
    assert "\n" not in printed and "Error compiling objects" in printed
    assert "FORCE_CUDA=1" in printed and "HIPIE_CUDA=0" in printed
