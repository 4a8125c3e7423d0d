"""Documents: the files, programs, paths, names and configuration keys that they mention exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from hipie import add_hipie_config, model_zoo
from hipie.config.loading import keys

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    ROOT / "datasets/README.md",
    ROOT / "benchmarks/RESULTS.md",
    ROOT / "hipie/model_zoo/weights/README.md",
    *ROOT.glob("projects/*/README.md"),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
SECTIONS = ("MODEL", "SOLVER", "DATASETS", "DATALOADER", "INPUT", "TEST", "PICTUREBOOK")
KEY = re.compile(rf"\b(?:{'|'.join(SECTIONS)})\.[A-Z0-9_.]*[A-Z0-9_]")


def name_of(document: Path) -> str:
    """Path from the root of the repository."""
    return document.relative_to(ROOT).as_posix()


def prose(document: Path) -> str:
    """Text of a document without its blocks of code."""
    text = document.read_text(encoding="utf-8")
    lines = re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines()
    return "\n".join(line for line in lines if not line.startswith("    "))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_to_files(document):
    for target in LINK.findall(prose(document)):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document}: {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_configuration_keys_exist(document):
    cfg = get_cfg()
    add_hipie_config(cfg)
    known = set(keys(cfg))
    known |= {".".join(name.split(".")[:2]) for name in known}
    short = {re.sub(r"^MODEL\.[A-Z_]+\.", "", name) for name in known}
    for key in set(KEY.findall(document.read_text(encoding="utf-8"))):
        assert key in known | short, f"{document}: there is no key {key}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_configurations_exist(document):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(
        r"(?:\bprojects/\w+/)?\bconfigs/[\w/.+-]+\.yaml|\b(?:nano|universal)/\w+\.yaml", text
    ):
        beside = (ROOT / name, document.parent / name)
        exists = any(file.is_file() for file in beside)
        assert exists or model_zoo.get_config_file(name).is_file(), f"{document}: {name}"


def test_named_programs_exist():
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for name in re.findall(r"python ((?:\w+/)*\w+\.py)", text):
            assert (ROOT / name).is_file(), f"{document}: {name}"
