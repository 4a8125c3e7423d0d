"""Downloads and code that a configuration of somebody else asks for are named."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.utils import comm

from hipie import model_zoo
from hipie.cli import train
from hipie.config.loading import ConfigError
from hipie.config.named_downloads import _warn_once
from hipie.downloads.address import parse_file_address


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    _warn_once.cache_clear()


def warnings(caplog: pytest.LogCaptureFixture, file: Path | str, options: tuple = ()) -> list[str]:
    """Warnings while a configuration is built."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hipie"):
        model_zoo.get_config(str(file), options)
    return [message for message in caplog.messages if "asks for" in message]


def test_downloads_of_other_configurations_are_named(tmp_path, caplog):
    url = "https://a.org/w.pth"
    (tmp_path / "base.yaml").write_text(f"MODEL: {{WEIGHTS: '{url}'}}\nVERSION: 2\n")
    file = tmp_path / "top.yaml"
    file.write_text("_BASE_: base.yaml\nMODEL: {HIPIE: {TEXT: {SOURCE: owner/name}}}\n")
    base = tmp_path / "base.yaml"
    assert warnings(caplog, file) == [
        f"{base}: MODEL.WEIGHTS asks for the download of {url}",
        f"{file}: MODEL.HIPIE.TEXT.SOURCE asks for the download of owner/name from the Hugging "
        "Face hub",
    ]
    assert warnings(caplog, file) == []  # once a process
    _warn_once.cache_clear()
    assert len(warnings(caplog, file, ("MODEL.WEIGHTS", "w.pth"))) == 1
    _warn_once.cache_clear()
    cached = parse_file_address(url).cache_path()
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert len(warnings(caplog, file)) == 1


def test_downloads_of_the_package_are_not_named(tmp_path, caplog):
    name = "universal/hipie_r50_pretrain.yaml"
    assert warnings(caplog, name) == []
    (tmp_path / "mine.yaml").write_text(f"_BASE_: '{model_zoo.get_config_file(name)}'\n")
    assert warnings(caplog, tmp_path / "mine.yaml") == []


@pytest.fixture
def module(tmp_path, monkeypatch) -> Iterator[Path]:
    """A module that says in the environment that it has run."""
    monkeypatch.delenv("HIPIE_ALLOW_IMPORTS", raising=False)
    monkeypatch.delenv("MODULE_HAS_RUN", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    file = tmp_path / "module_of_a_configuration.py"
    file.write_text("import os\nos.environ['MODULE_HAS_RUN'] = '1'\n")
    yield file
    sys.modules.pop(file.stem, None)
    os.environ.pop("MODULE_HAS_RUN", None)


def write_imports(file: Path, imports: str) -> Path:
    file.write_text(f"IMPORTS: {imports}\nVERSION: 2\n")
    return file


@pytest.mark.parametrize("form", ["['{}']", "'{}'", "\"('{}',)\"", "\"['{}']\""])
@pytest.mark.parametrize("in_base", [False, True])
def test_code_of_other_configurations_is_refused(tmp_path, monkeypatch, module, form, in_base):
    file = setting = write_imports(tmp_path / "c.yaml", form.format(module))
    if in_base:
        file = tmp_path / "top.yaml"
        file.write_text("_BASE_: c.yaml\n")
    monkeypatch.setattr(comm, "get_rank", lambda: 1)  # every process refuses
    with pytest.raises(ConfigError) as caught:
        model_zoo.get_config(str(file))
    assert str(caught.value) == (
        f"{setting}: IMPORTS would run the Python code of {module}; read it, and permit it by "
        f"--import {module} or --allow-imports (environment variable HIPIE_ALLOW_IMPORTS=1)"
    )
    assert "MODULE_HAS_RUN" not in os.environ


def test_code_that_the_user_names_is_run(tmp_path, monkeypatch, module):
    other = tmp_path / "other_module.py"
    other.write_text("")
    file = write_imports(tmp_path / "c.yaml", f"['{module}']")
    with pytest.raises(ConfigError, match="would run the Python code"):
        model_zoo.get_config(str(file), imports=[str(other)])
    with pytest.raises(ConfigError, match="would run the Python code"):
        monkeypatch.setenv("HIPIE_ALLOW_IMPORTS", "0")
        model_zoo.get_config(str(file))
    assert model_zoo.get_config(str(file), ["IMPORTS", "()"]).IMPORTS == ()
    assert "MODULE_HAS_RUN" not in os.environ
    monkeypatch.chdir(tmp_path)
    for arguments in ((), [module.name]), (["IMPORTS", f"('{module}',)"], ()):
        model_zoo.get_config(str(file), *arguments)
        assert os.environ.pop("MODULE_HAS_RUN") == "1"
        del sys.modules[module.stem]
    monkeypatch.setenv("HIPIE_ALLOW_IMPORTS", "1")
    model_zoo.get_config(str(file))
    assert "MODULE_HAS_RUN" in os.environ


def test_code_of_configurations_of_the_package_is_run(tmp_path, monkeypatch, module):
    monkeypatch.setattr(model_zoo, "CONFIGS", tmp_path)
    model_zoo.get_config(str(write_imports(tmp_path / "c.yaml", f"['{module}']")))
    assert "MODULE_HAS_RUN" in os.environ


def test_code_of_a_training_is_run_when_it_is_resumed(tmp_path, module):
    folder = tmp_path / "run"
    folder.mkdir()
    file = write_imports(folder / "config.yaml", f"['{module}']")
    words = ["--config-file", str(file)]
    resume = [*words, "--resume", "OUTPUT_DIR", str(folder)]
    for arguments in (words, resume):
        with pytest.raises(ConfigError, match="would run the Python code"):
            train.read_config(train.parse_arguments(arguments))
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    elsewhere = [*words, "--resume", "OUTPUT_DIR", str(tmp_path / "other")]
    for arguments in (words, [*words, "--resume"], elsewhere):
        with pytest.raises(ConfigError, match="would run the Python code"):
            train.read_config(train.parse_arguments(arguments))
    assert "MODULE_HAS_RUN" not in os.environ
    train.read_config(train.parse_arguments(resume))
    assert "MODULE_HAS_RUN" in os.environ


@pytest.mark.parametrize(
    "text",
    [
        "IMPORTS: 5\n",
        "IMPORTS: [1]\n",
        "VERSION: x\n",
        "VERSION: -5\n",
        "VERSION: 9\n",
        "VERSION: 2\nOUTPUT_DIR: " + "-" * 50_000 + "1\nSOLVER: {MAX_ITER: '" + "-" * 9999 + "1'}",
        "VERSION: 2\nSOLVER: {STEPS: '" + "1+" * 20_000 + "1'}\n",
        "VERSION: 2\nMODEL: !!set {a}\n",
        "VERSION: 2\nMODEL: !!binary YQ==\n",
        "VERSION: 2\n" + "k" * 9999 + ": 1\n",
    ],
)
def test_values_that_cannot_be_merged_are_one_sentence(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        model_zoo.get_config(str(tmp_path / "c.yaml"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_the_former_version_of_detectron2_is_read(tmp_path):
    (tmp_path / "c.yaml").write_text("VERSION: 1\nMODEL: {WEIGHT: w.pth}\n")
    assert model_zoo.get_config(str(tmp_path / "c.yaml")).MODEL.WEIGHTS == "w.pth"
