"""Documents: the files, programs, paths, names and configuration keys that they mention exist."""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie import add_hipie_config, model_zoo
from hipie.config.loading import keys

ROOT = Path(__file__).parents[1]
PACKAGES = {path.parent.name for path in ROOT.glob("projects/*/*/__init__.py")} | {"hipie"}
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    ROOT / "datasets/README.md",
    ROOT / "benchmarks/RESULTS.md",
    ROOT / "hipie/model_zoo/weights/README.md",
    *ROOT.glob("projects/*/README.md"),
    *ROOT.glob("packages/*/README.md"),
]
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")
SECTIONS = ("MODEL", "SOLVER", "DATASETS", "DATALOADER", "INPUT", "TEST", "PICTUREBOOK", "TRACKING")
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
    known |= {name.rpartition(".")[0] for name in known} | {
        name.rsplit(".", 2)[0] for name in known
    }
    short = {re.sub(r"^MODEL\.[A-Z_]+\.", "", name) for name in known}
    text = document.read_text(encoding="utf-8")
    if document.name == "CHANGELOG.md":  # the first column of its tables has former names
        text = re.sub(r"^\| `[^|]*\|", "", text, flags=re.MULTILINE)
    for key in set(KEY.findall(text)):
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_imports_of_python_examples_work(document):
    text = document.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def test_readme_example_of_a_training_loop_runs(in_tmp, monkeypatch):
    """The example of README.md, two iterations on a data set of two images."""
    (block,) = [
        block
        for block in re.findall(
            r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL
        )
        if "build_detection_train_loader" in block
    ]
    write_shelf(in_tmp / "shelf")
    assert len(block.splitlines()) < 45
    program = block.replace("cfg.SOLVER.MAX_ITER = 100", "cfg.SOLVER.MAX_ITER = 2")
    assert program != block
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names = {"__name__": "readme"}
    try:
        exec(compile(program, "README.md", "exec"), names)
    finally:
        for catalog in (DatasetCatalog, MetadataCatalog):
            if "shelf_train" in catalog.list():
                catalog.remove("shelf_train")
    assert names["total"].isfinite()
    assert names["storage"].iter == 1


def write_shelf(folder: Path) -> None:
    """Write two images with a mug each, and their annotations in COCO format."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in (1, 2):
        pixels = np.full((96, 128, 3), 60 * number, dtype=np.uint8)
        pixels[20:60, 30:80] = 250
        Image.fromarray(pixels).save(folder / f"images/{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 128})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [30, 20, 50, 40],
                "area": 2000,
                "segmentation": [[30, 20, 80, 20, 80, 60, 30, 60]],
            }
        )
    categories = [{"id": 1, "name": "mug"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(content))


def test_the_architecture_document_maps_forty_names_to_existing_ones():
    """Every row of its table names a file that exists and a name that the file defines."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = text.split("<!-- names -->")[1]
    rows = [line for line in table.splitlines() if re.match(r"\| (?!---|You know)", line)]
    assert len(rows) >= 40
    offenders = []
    for row in rows:
        here = row.strip().strip("|").split("|")[-1]
        paths = re.findall(r"\]\(\.\./([\w/.-]+)\)", here)
        offenders += [
            f"{path} does not exist: {row}" for path in paths if not (ROOT / path).exists()
        ]
        files = [ROOT / path for path in paths if path.endswith(".py")]
        sources = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
        names = re.findall(r"`([A-Za-z_][\w.]*)`", here)
        defined = r"\b(?:def|class) {0}\b|^ *{0}\b.* = "
        offenders += [
            f"{name} is not defined in {paths}"
            for name in names
            if not re.search(defined.format(re.escape(name)), sources, flags=re.MULTILINE)
        ]
        if not paths:
            offenders.append(f"no link: {row}")
    assert not offenders, "\n".join(offenders)


def test_source_tree_of_the_architecture_document_is_that_on_disk():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    tree = text.split("## Source tree")[1].split("```")[1]
    named = set(re.findall(r"\b\w+(?:/|\.py)", tree))
    for package in ("hipie", "hipie/modeling"):
        on_disk = {
            path.name if path.is_file() else f"{path.name}/"
            for path in (ROOT / package).iterdir()
            if (path.suffix == ".py" or (path / "__init__.py").is_file())
            and not path.name.startswith("__")
        }
        assert on_disk <= named, f"{package}: {sorted(on_disk - named)}"
    for name in re.findall(r"^ +(\w+/|\w+\.py) ", tree, flags=re.MULTILINE):
        assert any((ROOT / part / name).exists() for part in ("hipie", "hipie/modeling")), name


def test_paths_of_documents_exist():
    """Paths of the source tree in backquotes, from the root or from hipie/ or a project."""
    missing = []
    for document in DOCUMENTS:
        if document.name == "CHANGELOG.md":
            continue
        for path in re.findall(
            r"`((?:hipie|projects|tests|docs|install)/[\w/.-]+)`", prose(document)
        ):
            if not (ROOT / path).exists():
                missing.append(f"{name_of(document)}: {path}")
    assert not missing, missing


@pytest.mark.parametrize("name", ["security.md", "tested_inputs.md"])
def test_named_tests_exist(name):
    """Tests in backquotes, as `path/of/test.py::test_name` or as `test_name` of any file."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    files = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in ROOT.glob("tests/**/test_*.py")
    }
    defined = {
        path: set(re.findall(r"^ *def (test_\w+)", source, flags=re.MULTILINE))
        for path, source in files.items()
    }
    everywhere = set().union(*defined.values())
    missing = [
        f"{path}::{test}"
        for path, test in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)", text)
        if test not in defined.get(path, ())
    ]
    missing += [test for test in re.findall(r"`(test_\w+)`", text) if test not in everywhere]
    assert not missing, missing
