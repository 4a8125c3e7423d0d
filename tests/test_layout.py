"""The house keeps its floors: imports point down, files and functions stay small."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A room imports rooms of lower floors only; rooms of one floor do not know
# each other.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "config",
            "configure",
            "ops",
            "language",
            "inference",
            "open_vocabulary",
            "data.picturebook",
            "plugins",
            "segmentation",
        }
    ),
    frozenset({"vision", "training", "data.vocabularies"}),
    frozenset({"model"}),
    frozenset({"checkpoint"}),
    frozenset({"universal", "data"}),
    frozenset({"evaluation"}),
    frozenset({"model_zoo"}),
    frozenset({"segmenter"}),
    frozenset({"cli", "doctor", "demonstration"}),
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# Files that make one room with another.
JOINED = {"visualize": "segmentation"}
# Rooms beside the model, which never see one.
WITHOUT_MODEL = ("checkpoint", "data", "evaluation")
OF_MODELS = {"vision", "training", "model", "universal"}

LONGEST_FILE, LONGEST_FUNCTION = 400, 80
EMPTY_NAMES = {"utils", "util", "helper", "helpers", "misc", "common"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def room_of(module: str) -> str:
    """`hipie.data.picturebook.pen` -> `data.picturebook`; `hipie` itself -> ``."""
    parts = module.split(".")[1:]
    if parts[:2] in (["data", "picturebook"], ["data", "vocabularies"]):
        return ".".join(parts[:2])
    return JOINED.get(parts[0], parts[0]) if parts else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from running(child)


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever the statement stands."""
    for node in running(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                here = path.relative_to(ROOT).parent.parts
                kept = here[: len(here) - node.level + 1]
                source = ".".join([*kept, *filter(None, [node.module])])
            if source in ("hipie", "hipie.data"):
                yield from (f"{source}.{alias.name}" for alias in node.names)
            else:
                yield source


def house_imports(path: Path) -> list[str]:
    found = (name for name in imported(path) if name.split(".")[0] == "hipie")
    return [name for name in found if name not in ("hipie", "hipie.__version__")]


def test_every_room_has_a_floor():
    rooms = {room_of(module_of(path)) for path in sources("hipie")} - {""}
    assert rooms <= set(FLOOR_OF), f"not in the table: {rooms - set(FLOOR_OF)}"


@pytest.mark.parametrize("path", sources("hipie"), ids=module_of)
def test_imports_point_down(path):
    room = room_of(module_of(path))
    if not room:
        pytest.skip("hipie/__init__.py offers names of all floors, lazily")
    for name in house_imports(path):
        other = room_of(name)
        if other == room:
            continue
        assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} must not import {name}"
        assert room not in WITHOUT_MODEL or other not in OF_MODELS, f"{room} imports {name}"


def test_the_rule_notices_an_arrow_that_points_up(tmp_path):
    up = tmp_path / "up.py"
    up.write_text("def f():\n    from hipie import segmenter\n    import hipie.cli\n")
    assert house_imports(up) == ["hipie.predictor", "hipie.cli"]
    only_types = tmp_path / "types.py"
    only_types.write_text("if TYPE_CHECKING:\n    from hipie.predictor import Segmenter\n")
    assert house_imports(only_types) == []
    assert FLOOR_OF["segmenter"] > FLOOR_OF["model"]


def test_projects_know_hipie_and_nobody_else_knows_them():
    packages = {path.parent.name for path in ROOT.glob("projects/*/*/__init__.py")}
    for path in sources("projects"):
        others = packages - {part for part in path.parts if part in packages}
        assert not others & {name.split(".")[0] for name in imported(path)}, path
    for path in sources("hipie"):
        assert not packages & {name.split(".")[0] for name in imported(path)}, path


def test_importing_the_package_imports_no_room():
    names = house_imports(ROOT / "hipie/__init__.py")
    assert names == []


@pytest.mark.parametrize("path", sources("hipie", "projects", "datasets"), ids=module_of)
def test_files_and_functions_are_small_and_named(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    assert path.stem not in EMPTY_NAMES
    assert path.parent.name not in EMPTY_NAMES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < LONGEST_FUNCTION, f"{path}: {node.name}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno} catches everything"


@pytest.mark.parametrize("path", sources("hipie"), ids=module_of)
def test_public_names_are_described(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path} does not say what it is"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}: {node.name} has no docstring"
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            untyped = [arg.arg for arg in node.args.args if arg.annotation is None]
            assert not untyped, f"{path}: {node.name}({untyped[0]}) is not annotated"
            assert node.returns is not None, f"{path}: {node.name} does not say what it returns"


# Written apart, so that this file does not hold what it looks for.
FOREIGN = re.compile(
    "|".join(
        (
            r"(?<![\w.])/(work|root|home)/\w",
            r"/opt/py" + "pi",
            "py" + r"pi\.org",
            "python" + r"hosted\.org",
            "npm" + r"js\.(org|com)",
            r"deb\.deb" + "ian",
        )
    )
)


def tracked_text() -> Iterator[tuple[str, str]]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path.stat().st_size < 2**20:
            content = path.read_bytes()
            if b"\0" not in content:
                yield name, content.decode("utf-8", "replace")


def test_no_file_names_a_machine_or_a_registry():
    found = [
        f"{name}: {match.group()}"
        for name, text in tracked_text()
        for match in FOREIGN.finditer(text)
    ]
    assert not found


@pytest.mark.parametrize("text", ["cd /ro" + "ot/x", "https://py" + "pi.org/simple"])
def test_what_must_not_be_in_a_file_is_recognised(text):
    assert FOREIGN.search(text)
    assert not FOREIGN.search("see docs/home/work and ./root/x")
