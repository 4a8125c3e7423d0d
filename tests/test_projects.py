"""Loading of installed projects."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from hipie import model_zoo, projects
from hipie.config.loading import ConfigError, merge
from hipie.projects import ProjectError

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install distributions of one module, each with one entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install_one(name: str, body: str, function: str | None = None) -> None:
        (tmp_path / f"{name}.py").write_text(body)
        metadata = tmp_path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        target = function or f"add_{name}_config"
        (metadata / "entry_points.txt").write_text(f"[hipie.projects]\n{name} = {name}:{target}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)

    projects.load_projects.cache_clear()
    yield install_one
    projects.load_projects.cache_clear()


GOOD = """
from detectron2.config import CfgNode
imported = True
def add_{0}_config(cfg):
    cfg.MODEL.{1} = CfgNode({{"WIDTH": 7}})
"""


def config() -> CfgNode:
    return CfgNode({"MODEL": {"DEVICE": "cpu"}})


def test_projects_add_their_keys_in_order_of_name(install: Install) -> None:
    install("zebra_project", GOOD.format("zebra_project", "ZEBRA"))
    install("ant_project", GOOD.format("ant_project", "ANT"))
    cfg = config()
    projects.add_project_configs(cfg)
    names = [name for name in projects.project_names() if name.endswith("_project")]
    assert names == ["ant_project", "zebra_project"]
    assert cfg.MODEL.ZEBRA.WIDTH == cfg.MODEL.ANT.WIDTH == 7
    assert sys.modules["ant_project"].imported


BROKEN = [
    ("import a_module_that_is_not_there", "ModuleNotFoundError"),
    ("def add_sick_project_config(cfg):\n    raise ValueError('no\\nway')", "ValueError: no way"),
    ("x = 1", "AttributeError"),
    ("def broken(:", "SyntaxError"),
    (
        "def add_sick_project_config(cfg):\n    cfg.MODEL.HALF = 1\n    cfg.NOT.THERE = 2",
        "AttributeError",
    ),
]


@pytest.mark.parametrize(("body", "reason"), BROKEN)
def test_a_broken_project_is_one_warning_and_an_error_when_used(
    install: Install, caplog: pytest.LogCaptureFixture, body: str, reason: str
) -> None:
    install("sick_project", body)
    install("well_project", GOOD.format("well_project", "WELL"))
    cfg = config()
    with caplog.at_level(logging.WARNING, "hipie.projects"):
        projects.add_project_configs(cfg)
        projects.add_project_configs(config())
    names = projects.project_names()
    assert "sick_project" not in names and "well_project" in names
    assert "HALF" not in cfg.MODEL
    (message,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in message
    assert "sick_project is skipped" in message and reason in message
    with pytest.raises(ProjectError, match=f"sick_project could not be loaded: {reason}"):
        projects.require_project("sick_project")
    projects.require_project("well_project")
    with pytest.raises(ConfigError, match=r"no key MODEL\.SICK.*sick_project \(" + reason):
        merge(cfg, options=["MODEL.SICK", 1])


def test_configurations_of_a_broken_project_name_the_reason(
    install: Install, tmp_path: Path
) -> None:
    install("sick_project", "")
    (tmp_path / "sick_project.py").unlink()
    folder = tmp_path / "sick_project"
    (folder / "configs").mkdir(parents=True)
    (folder / "__init__.py").write_text("import a_module_that_is_not_there")
    (folder / "configs" / "sick.yaml").write_text("MODEL: {SICK: {WIDTH: 1}}\n")
    with pytest.raises(ProjectError, match="sick_project could not be loaded.*is_not_there"):
        model_zoo.get_config("sick_project/sick.yaml")


def test_a_project_is_imported_once(install: Install, tmp_path: Path) -> None:
    log = tmp_path / "log"
    body = GOOD.format("ant_project", "ANT") + f"open({str(log)!r}, 'a').write('x')\n"
    install("ant_project", body)
    for _ in range(3):
        projects.add_project_configs(config())
        sys.modules.pop("ant_project", None)
    assert log.read_text() == "x"


def test_folders_of_projects_are_located_without_an_import(
    install: Install, tmp_path: Path
) -> None:
    install("ant_project", "raise RuntimeError('imported')")
    install("gone_project", "")
    (tmp_path / "gone_project.py").unlink()
    package = tmp_path / "bee_project"
    package.mkdir()
    install("bee_project", "")
    (tmp_path / "bee_project.py").unlink()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    folders = projects.project_folders()
    assert folders["bee_project"] == package
    assert not {"ant_project", "gone_project"} & set(folders)
