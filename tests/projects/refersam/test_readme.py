"""What the project's page points at is there: files, programs, keys, names of the code."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from detectron2.config import get_cfg

from hipie import add_hipie_config
from hipie.config.loading import keys
from refersam import add_refersam_config

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "projects/ReferSAM/README.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_links_and_files():
    for target in re.findall(r"\]\(([^)#\s]+)\)", TEXT):
        assert "://" in target or (PAGE.parent / target).exists(), target
    for name in re.findall(r"(?<!/)(?:projects|benchmarks|configs)/[\w/.+-]+\.(?:yaml|py)", TEXT):
        assert (ROOT / name).is_file(), name


def test_keys():
    cfg = get_cfg()
    add_hipie_config(cfg)
    add_refersam_config(cfg)
    known = set(keys(cfg)) | {"MODEL.REFERSAM"}
    for key in re.findall(
        r"\b(?:MODEL|SOLVER|INPUT|DATASETS|PICTUREBOOK)\.[A-Z0-9_.]*[A-Z0-9_]", TEXT
    ):
        assert key in known, key


def test_names_of_the_code():
    found = re.findall(r"`refersam\.([\w.]+)\.(\w+)`", TEXT)
    assert len(found) > 8
    for module, name in found:
        assert hasattr(import_module(f"refersam.{module}"), name), (module, name)
