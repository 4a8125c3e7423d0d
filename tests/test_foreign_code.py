"""Calls that could run code of a file: each is made with what prevents it, or not at all."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted(
    [
        *ROOT.glob("hipie/**/*.py"),
        *ROOT.glob("projects/*/*/**/*.py"),
        *ROOT.glob("datasets/*.py"),
        *ROOT.glob("*.py"),
    ]
)
# Loaders of transformers, diffusers and open_clip that run a repository's Python on request.
LOADERS = ("from_pretrained", "pipeline", "AutoModel")
# Modules that run what they read, and files that may use them: records of this process's own.
UNPICKLERS = {
    "pickle.load": set(),
    "pickle.loads": {"hipie/data/record_list.py"},
    "pickle.Unpickler": set(),
    "dill.load": set(),
    "joblib.load": set(),
    "cloudpickle.load": set(),
    "cloudpickle.loads": set(),
    "marshal.loads": set(),
    "shelve.open": set(),
    "yaml.load": set(),
    "yaml.unsafe_load": set(),
    "yaml.full_load": set(),
    "torch.jit.load": set(),
    "torch.hub.load": set(),
    "os.system": set(),
    "os.popen": set(),
    "builtins.eval": set(),
    "builtins.exec": set(),
    "shutil.unpack_archive": set(),
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Full name and node of every call of a file, `from a import b` included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {"eval": "builtins.eval", "exec": "builtins.exec"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            full = names.get(first, first)
            yield (f"{full}.{rest}" if rest else full), node


def constant(call: ast.Call, name: str) -> object:
    """Value of a keyword that is a literal; None if there is no such keyword."""
    for keyword in call.keywords:
        if keyword.arg == name and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    return None


ALL = [
    (path.relative_to(ROOT).as_posix(), name, call)
    for path in PROGRAMS
    for name, call in calls(path)
]


def test_no_loader_trusts_remote_code() -> None:
    loaders = [
        (file, name, call)
        for file, name, call in ALL
        if name.rpartition(".")[2] in LOADERS and not name.startswith("hipie.")
    ]
    assert len(loaders) >= 3
    offenders = [
        f"{file}:{call.lineno}: {name}"
        for file, name, call in loaders
        if constant(call, "trust_remote_code") is not False
    ]
    assert not offenders, offenders


def test_torch_and_numpy_read_without_pickles() -> None:
    offenders = [
        f"{file}:{call.lineno}: {name}"
        for file, name, call in ALL
        if (name == "torch.load" and constant(call, "weights_only") is not True)
        or (
            name in ("numpy.load", "numpy.lib.format.read_array") and constant(call, "allow_pickle")
        )
        or (name == "open_clip.create_model" and constant(call, "weights_only") is False)
    ]
    assert not offenders, offenders


@pytest.mark.parametrize("name", UNPICKLERS)
def test_readers_that_run_code_are_not_used(name: str) -> None:
    users = {file for file, called, _ in ALL if called == name}
    assert users <= UNPICKLERS[name]


def test_calls_are_recognised(tmp_path: Path) -> None:
    """The tests above see imports under other names."""
    (tmp_path / "a.py").write_text(
        "import torch as t, yaml\nfrom pickle import loads as read\n"
        "t.load(f)\nread(b)\nAutoTokenizer.from_pretrained(x, trust_remote_code=flag)\neval(s)"
    )
    calls_of_file = dict(calls(tmp_path / "a.py"))
    assert list(calls_of_file) == [
        "torch.load",
        "pickle.loads",
        "AutoTokenizer.from_pretrained",
        "builtins.eval",
    ]
    assert constant(calls_of_file["AutoTokenizer.from_pretrained"], "trust_remote_code") is None
