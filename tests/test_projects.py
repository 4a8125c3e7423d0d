"""Projects that plug in, and projects that fail to."""

from __future__ import annotations

import logging
import sys

import pytest
from detectron2.config import CfgNode

from hipie import plugins


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs distributions of one module, each with one entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def one(name: str, body: str, function: str | None = None) -> None:
        (tmp_path / f"{name}.py").write_text(body)
        notes = tmp_path / f"{name}-1.0.dist-info"
        notes.mkdir()
        (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        called = function or f"add_{name}_config"
        (notes / "entry_points.txt").write_text(f"[hipie.projects]\n{name} = {name}:{called}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return one


GOOD = """
from detectron2.config import CfgNode
imported = True
def add_{0}_config(cfg):
    cfg.MODEL.{1} = CfgNode({{"WIDTH": 7}})
"""


def config() -> CfgNode:
    return CfgNode({"MODEL": {"DEVICE": "cpu"}})


def test_projects_add_their_keys_in_order_of_name(install):
    install("zebra_project", GOOD.format("zebra_project", "ZEBRA"))
    install("ant_project", GOOD.format("ant_project", "ANT"))
    cfg = config()
    loaded = plugins.load_projects(cfg)
    assert [name for name in loaded if name.endswith("_project")] == [
        "ant_project",
        "zebra_project",
    ]
    assert cfg.MODEL.ZEBRA.WIDTH == cfg.MODEL.ANT.WIDTH == 7
    assert sys.modules["ant_project"].imported


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError"),
        (
            "def add_sick_project_config(cfg):\n    raise ValueError('no\\nway')",
            "ValueError: no way",
        ),
        ("x = 1", "AttributeError"),
        ("def broken(:", "SyntaxError"),
        (
            "def add_sick_project_config(cfg):\n    cfg.MODEL.HALF = 1\n    cfg.NOT.THERE = 2",
            "AttributeError",
        ),
    ],
)
def test_a_failing_project_is_one_line_and_leaves_no_trace(install, caplog, body, reason):
    install("sick_project", body)
    install("well_project", GOOD.format("well_project", "WELL"))
    cfg = config()
    with caplog.at_level(logging.WARNING, "hipie.projects"):
        loaded = plugins.load_projects(cfg)
    assert "sick_project" not in loaded
    assert "well_project" in loaded
    assert "HALF" not in cfg.MODEL
    (message,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in message
    assert "sick_project is skipped" in message
    assert reason in message


def test_folders_of_projects_are_found_without_importing_them(install, tmp_path, monkeypatch):
    install("ant_project", "raise RuntimeError('imported')")
    install("gone_project", "")
    (tmp_path / "gone_project.py").unlink()
    package = tmp_path / "bee_project"
    package.mkdir()
    install("bee_project", "")
    (tmp_path / "bee_project.py").unlink()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    found = plugins.project_folders()
    assert found["bee_project"] == package
    assert not {"ant_project", "gone_project"} & set(found)
