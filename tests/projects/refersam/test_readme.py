"""References of the project's README: files, configuration keys and names of the code."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from detectron2.config import get_cfg

from hipie import add_hipie_config
from hipie.config.loading import keys
from refersam import add_refersam_config

ROOT = Path(__file__).parents[3]
README = ROOT / "projects/ReferSAM/README.md"
TEXT = README.read_text(encoding="utf-8")


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#\s]+)\)", TEXT):
        assert "://" in target or (README.parent / target).exists(), target
    for name in re.findall(r"(?<!/)(?:projects|benchmarks|configs)/[\w/.+-]+\.(?:yaml|py)", TEXT):
        assert (ROOT / name).is_file(), name


def test_configuration_keys_exist():
    cfg = get_cfg()
    add_hipie_config(cfg)
    add_refersam_config(cfg)
    valid = set(keys(cfg)) | {"MODEL.REFERSAM"}
    for key in re.findall(
        r"\b(?:MODEL|SOLVER|INPUT|DATASETS|PICTUREBOOK)\.[A-Z0-9_.]*[A-Z0-9_]", TEXT
    ):
        assert key in valid, key


def test_named_objects_exist():
    matches = re.findall(r"`refersam\.([\w.]+)\.(\w+)`", TEXT)
    assert len(matches) > 8
    for module, name in matches:
        assert hasattr(import_module(f"refersam.{module}"), name), (module, name)
