"""Downloads and code that a configuration of somebody else asks for are named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hipie import model_zoo
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
    return [message for message in caplog.messages if "asks for" in message or "runs" in message]


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


def test_code_of_other_configurations_is_named_before_it_runs(tmp_path, caplog):
    module = tmp_path / "module_named_once.py"
    module.write_text("import logging\nlogging.getLogger('hipie').warning('it runs')\n")
    file = tmp_path / "c.yaml"
    file.write_text(f"IMPORTS: ['{module}']\nVERSION: 2\n")
    assert warnings(caplog, file) == [
        f"{file}: IMPORTS runs the Python code of {module}",
        "it runs",
    ]


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
