"""Notebooks: stored without outputs, on packaged data, and run by `make notebooks`."""

from __future__ import annotations

import ast
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


def cells(notebook: Path) -> list[dict]:
    """Cells of a notebook."""
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def code(notebook: Path) -> str:
    """Code of all cells, without lines for the shell."""
    sources = ["".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "code"]
    return "\n".join(re.sub(r"^!.*$", "", source, flags=re.M) for source in sources)


def test_there_are_five():
    assert [notebook.stem for notebook in NOTEBOOKS] == [
        "add_a_meta_architecture",
        "evaluate_and_read_the_results",
        "refer_and_group",
        "segment_your_photos",
        "train_on_your_own_coco_data",
    ]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(notebook):
    for cell in cells(notebook):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]
        assert not cell["metadata"], cell["id"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_begins_with_a_title_and_checks_its_results(notebook):
    first = cells(notebook)[0]
    assert first["cell_type"] == "markdown" and "".join(first["source"]).startswith("# ")
    tree = ast.parse(code(notebook))
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_needs_nothing_from_elsewhere(notebook):
    text = notebook.read_text(encoding="utf-8")
    assert "://" not in text and "datasets/photographs" not in text
    packaged = {"hipie-nano-photos", "hipie-nano-picturebook", "grser-nano-picturebook"}
    assert set(re.findall(r"(?:hipie|grser)-nano-\w+", text)) <= packaged
    named = re.findall(r"photographs / \\\"(\w+\.jpg)", text)
    assert all((ROOT / "hipie/examples/photographs" / name).is_file() for name in named)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_imports_work(notebook):
    for node in ast.walk(ast.parse(code(notebook))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "hipie":
            module = import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), node.module


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook, tmp_path):
    pytest.importorskip("nbclient")
    import nbformat
    from nbclient import NotebookClient

    content = nbformat.read(notebook, as_version=4)
    client = NotebookClient(content, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert all(
        cell.execution_count for cell in content.cells if cell.cell_type == "code" and cell.source
    )
