"""Layout of the source tree: layering, import cycles, sizes, docstrings, foreign paths.

Every test lists all offenders at once, as `file:line: what is wrong`.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Modules at the bottom: they import nothing of hipie but themselves and `errors`.
BOTTOM = ("errors", "structures", "ops", "vocabularies")
# Whoever builds, runs or presents a model.
APPLICATION = (
    *("task_predictors", "predictor", "batch_inference", "distributed", "serve", "app", "cli"),
    "__main__",
)
RESULTS = ("segmentation", "visualizer", "text_drawing", "label_placement")
# Top-level module of hipie -> those that it must not import.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "config": (
        *("modeling", "data", "evaluation", "engine", "checkpoint", "model_zoo"),
        *RESULTS,
        *APPLICATION,
    ),
    "modeling": ("data", "evaluation", "engine", "model_zoo", *RESULTS, *APPLICATION),
    "data": ("modeling", "evaluation", "engine", "model_zoo", *APPLICATION),
    "evaluation": ("modeling", "engine", "model_zoo", *APPLICATION),
    "refinement": ("data", "evaluation", "engine", "model_zoo", *RESULTS, *APPLICATION),
    "checkpoint": ("modeling", "data", "evaluation", "engine", "model_zoo", *RESULTS, *APPLICATION),
    "engine": RESULTS + APPLICATION,
    "model_zoo": RESULTS + APPLICATION,
    "segmentation": ("modeling", "data", "evaluation", "engine", "model_zoo", *APPLICATION),
    "visualizer": ("modeling", "evaluation", "engine", "model_zoo", *APPLICATION),
    "label_placement": ("modeling", "data", "evaluation", "engine", "model_zoo", *APPLICATION),
    "text_drawing": ("modeling", "data", "evaluation", "engine", "model_zoo", *APPLICATION),
    "task_predictors": (
        *("data", "evaluation", "engine", "checkpoint", "model_zoo"),
        *("predictor", "batch_inference", "serve", "cli", "__main__"),
    ),
    "predictor": ("batch_inference", "distributed", "serve", "cli", "__main__"),
    "serve": ("data", "modeling", "evaluation", "engine", "batch_inference", "cli", "__main__"),
    "batch_inference": (
        *("modeling", "evaluation", "engine", "checkpoint", "model_zoo", "task_predictors"),
        *("predictor", "distributed", "serve", "cli", "__main__"),
    ),
    "distributed": (
        *("modeling", "evaluation", "engine", "checkpoint", "model_zoo", "task_predictors"),
        *("predictor", "serve", "cli", "__main__"),
    ),
}
# A tokenizer turns text into ids and holds no parameters: the data mappers count tokens with it.
# The interface of architectures, which name dataset mappers and evaluators, holds no network.
ALLOWED = {
    ("data", "hipie.modeling.text_encoder.tokenizer"),
    ("data", "hipie.modeling.text_encoder.class_names"),
    ("data", "hipie.modeling.meta_arch.base"),
    ("evaluation", "hipie.modeling.meta_arch.base"),
}
# Packages that `hipie.structures` and `hipie.vocabularies` may import beside the standard library.
THIRD_PARTY = {"errors": set(), "structures": {"torch"}, "vocabularies": set()}

MAX_FILE_LINES, MAX_FUNCTION_LINES = 800, 120
EMPTY_NAMES = {"utils", "util", "helper", "helpers", "misc", "common"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> list[Path]:
    """Python files below folders of the repository, without their tests."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path, root: Path = ROOT) -> str:
    """Path from the root of the repository."""
    return path.relative_to(root).as_posix()


def module_of(path: Path, root: Path = ROOT) -> str:
    """`hipie/ops/module.py` -> `hipie.ops.module`; `projects/P/p/a.py` -> `p.a`."""
    parts = path.relative_to(root).with_suffix("").parts
    parts = parts[2:] if parts[0] == "projects" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> dict[str, Path]:
    """Every module of hipie and of the projects, by its dotted name."""
    return {module_of(path): path for path in sources("hipie", "projects")}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node` but those that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from executed(child)


def imported(
    path: Path, known: Mapping[str, object], root: Path = ROOT
) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each module that a file imports, in functions too.

    `from package import name` is `package.name` where that is one of the known modules.
    """
    for node in executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = node.module or ""
            if node.level:
                package_parts = module_of(path, root).split(".")
                if path.name != "__init__.py":
                    package_parts = package_parts[:-1]
                kept = package_parts[: len(package_parts) - node.level + 1]
                package = ".".join([*kept, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{package}.{alias.name}"
                yield node.lineno, full if full in known else package


def top_level(module: str) -> str:
    """`hipie.modeling.sam.predictor` -> `modeling`; `hipie` itself -> ``."""
    return module.partition(".")[2].partition(".")[0]


def report(offenders: list[str]) -> str:
    """Message of a failed test: all offenders, one a line."""
    return f"{len(offenders)} offenders:\n" + "\n".join(offenders)


def layering_offenders(path: Path, known: Mapping[str, object], root: Path = ROOT) -> list[str]:
    """Imports of one file of hipie that its layer forbids."""
    own = top_level(module_of(path, root))
    offenders = []
    for line, name in imported(path, known, root):
        if name.split(".")[0] != "hipie" or (own, name) in ALLOWED:
            continue
        other = top_level(name)
        if other not in (own, "errors") and (
            (own in BOTTOM and name != "hipie") or other in FORBIDDEN.get(own, ())
        ):
            offenders.append(f"{name_of(path, root)}:{line}: {own} imports {name}")
    return offenders


def test_layers_import_only_lower_layers():
    known = modules()
    offenders = [line for path in sources("hipie") for line in layering_offenders(path, known)]
    assert not offenders, report(offenders)


def test_every_rule_is_about_an_existing_module():
    present = {top_level(module) for module in modules() if module.startswith("hipie.")}
    named = {*BOTTOM, *FORBIDDEN, *(name for names in FORBIDDEN.values() for name in names)}
    assert named <= present, named - present


@pytest.mark.parametrize("module", THIRD_PARTY)
def test_bottom_modules_import_only_the_standard_library(module):
    import sys

    allowed = {*sys.stdlib_module_names, "hipie", *THIRD_PARTY[module]}
    offenders = [
        f"{name_of(path)}:{line}: {name}"
        for path in sources("hipie")
        if top_level(module_of(path)) == module
        for line, name in imported(path, modules())
        if name.split(".")[0] not in allowed
    ]
    assert not offenders, report(offenders)


def test_an_import_that_points_up_is_noticed(tmp_path):
    up = tmp_path / "hipie/modeling/up.py"
    up.parent.mkdir(parents=True)
    known = {"hipie.predictor": up, "hipie.data": up, "hipie.structures": up}
    up.write_text("def f():\n    from hipie import predictor, structures\n    import hipie.cli\n")
    lines = layering_offenders(up, known, tmp_path)
    assert [line.rpartition(" ")[2] for line in lines] == ["hipie.predictor", "hipie.cli"]
    up.write_text("from .. import data\nif TYPE_CHECKING:\n    from hipie.predictor import P\n")
    (line,) = layering_offenders(up, known, tmp_path)
    assert line == "hipie/modeling/up.py:1: modeling imports hipie.data"


def test_projects_import_hipie_and_never_each_other():
    packages = {path.parent.name for path in ROOT.glob("projects/*/*/__init__.py")}
    assert len(packages) >= 5
    offenders = []
    for path in sources("hipie", "projects"):
        others = packages - set(path.relative_to(ROOT).parts)
        offenders += [
            f"{name_of(path)}:{line}: {name}"
            for line, name in imported(path, {})
            if name.split(".")[0] in others
        ]
    assert not offenders, report(offenders)


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for successor in sorted(graph.get(node, ())):
            if successor not in index:
                visit(successor)
                low[node] = min(low[node], low[successor])
            elif successor in stack:
                low[node] = min(low[node], index[successor])
        if low[node] == index[node]:
            start = stack.index(node)
            component = sorted(stack[start:])
            del stack[start:]
            if len(component) > 1:
                components.append(component)

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return components


def import_graph() -> dict[str, set[str]]:
    """Which modules of hipie and of the projects each module imports, in functions too."""
    known = modules()
    return {
        module: {name for _, name in imported(path, known) if name in known and name != module}
        for module, path in known.items()
    }


def test_modules_import_each_other_in_no_cycle():
    offenders = [" <-> ".join(component) for component in cycles(import_graph())]
    assert not offenders, report(offenders)


def test_packages_of_hipie_import_each_other_in_no_cycle():
    graph: dict[str, set[str]] = {}
    for module, names in import_graph().items():
        if top_level(module) and module.startswith("hipie."):
            others = {top_level(name) for name in names if name.startswith("hipie.")}
            graph.setdefault(top_level(module), set()).update(others - {top_level(module)})
    offenders = [" <-> ".join(component) for component in cycles(graph)]
    assert not offenders, report(offenders)


def test_cycles_are_found():
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": set(), "f": {"a", "g"}}
    assert cycles(graph) == [["a", "b", "c"]]
    assert cycles({**graph, "g": {"f"}}) == [["a", "b", "c"], ["f", "g"]]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_importing_the_package_imports_none_of_its_modules():
    """`hipie/__init__.py` offers names of all layers, lazily."""
    tree = ast.parse((ROOT / "hipie/__init__.py").read_text(encoding="utf-8"))
    names = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in names
        for alias in node.names
    }
    assert not {name for name in modules if name.split(".")[0] in ("hipie", "torch", "detectron2")}


def test_files_and_functions_are_short_and_named():
    offenders = []
    for path in sources("hipie", "projects", "datasets"):
        text = path.read_text(encoding="utf-8")
        where = name_of(path)
        if (lines := len(text.splitlines())) > MAX_FILE_LINES:
            offenders.append(f"{where}: {lines} lines, at most {MAX_FILE_LINES}")
        if EMPTY_NAMES & {path.stem, path.parent.name}:
            offenders.append(f"{where}: the name says nothing")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                if (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES:
                    offenders.append(f"{where}:{node.lineno}: {node.name} has {lines} lines")
            elif isinstance(node, ast.ExceptHandler) and node.type is None:
                offenders.append(f"{where}:{node.lineno}: catches every exception")
    assert not offenders, report(offenders)


def public_functions(tree: ast.Module) -> Iterator[Function]:
    """Public functions of a module, and public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and not method.name.startswith("_"):
                    yield method


def test_public_names_have_docstrings():
    offenders = []
    for path in sources("hipie", "projects"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [
            node
            for node in tree.body
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]
        overrides = {
            method
            for node in classes
            for method in node.body
            if isinstance(method, Function)
            and "override" in ast.dump(ast.List(method.decorator_list))
        }
        nodes = [node for node in public_functions(tree) if node not in overrides]
        if not ast.get_docstring(tree):
            offenders.append(f"{name_of(path)}:1: the module has no docstring")
        offenders += [
            f"{name_of(path)}:{node.lineno}: {node.name} has no docstring"
            for node in (*classes, *nodes)
            if not ast.get_docstring(node)
        ]
    assert not offenders, report(offenders)


def test_public_functions_are_annotated():
    offenders = []
    for path in sources("hipie", "projects"):
        for node in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            arguments += filter(None, [node.args.vararg, node.args.kwarg])
            missing = [
                argument.arg
                for argument in arguments
                if argument.annotation is None and argument.arg not in ("self", "cls")
            ]
            if missing or node.returns is None:
                what = ", ".join(missing) or "the returned value"
                offenders.append(f"{name_of(path)}:{node.lineno}: {node.name}: {what} has no type")
    assert not offenders, report(offenders)


# Written apart, so that this file does not hold what it searches for.
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
    """Name and content of every text file that git tracks."""
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
    offenders = [
        f"{name}: {match.group()}"
        for name, text in tracked_text()
        for match in FOREIGN.finditer(text)
    ]
    assert not offenders, report(offenders)


@pytest.mark.parametrize("text", ["cd /ro" + "ot/x", "https://py" + "pi.org/simple"])
def test_machine_paths_and_registries_are_recognised(text):
    assert FOREIGN.search(text)
    assert not FOREIGN.search("see docs/home/work and ./root/x")
