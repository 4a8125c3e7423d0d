"""The programs of `datasets/`, which are no package, as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def program(name: str) -> ModuleType:
    """`datasets/prepare_<name>.py`."""
    path = Path(__file__).parents[1] / "datasets" / f"prepare_{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tree_of(root: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}
