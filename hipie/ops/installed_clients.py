"""Find what :func:`hipie.ops.patch` would serve in installed packages, without importing them."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .client_forms import form_of, resembles

# Packages to look into, and the distributions that ship them.
PACKAGES = {
    "transformers": ("transformers",),
    "mmcv": ("mmcv", "mmcv-lite"),
    "groundingdino": ("groundingdino", "groundingdino-py"),
    "detrex": ("detrex",),
}
_MARK = b"sampling_locations"


@dataclass(frozen=True)
class Client:
    """An installed package that computes multi-scale deformable attention.

    Attributes:
        name: the package.
        version: its version, or "of unknown version".
        served: names of functions and layers of known forms: their form.
        unknown: names of functions and layers that look alike, in a form that is not known.
    """

    name: str
    version: str
    served: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        modules = {name.partition(":")[0].rpartition(".")[2] for name in self.served}
        line = f"{self.name} {self.version}: {', '.join(sorted(modules)) or 'nothing'}"
        if self.unknown:
            line += f"; left alone, of an unknown form: {', '.join(self.unknown)}"
        return line


def installed_clients() -> list[Client]:
    """Return the packages of `PACKAGES` that are installed; reads their source only."""
    clients = []
    for name, distributions in PACKAGES.items():
        spec = importlib.machinery.PathFinder.find_spec(name, sys.path)
        if spec is None or not spec.submodule_search_locations:
            continue
        client = Client(name, _version(distributions))
        for folder in spec.submodule_search_locations:
            for file in sorted(Path(folder).rglob("*.py")):
                _add(client, file, Path(folder))
        clients.append(client)
    return clients


def _version(distributions: tuple[str, ...]) -> str:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _add(client: Client, file: Path, folder: Path) -> None:
    """Add what a source file has; a file that does not parse has nothing."""
    try:
        source = file.read_bytes()
        tree = ast.parse(source) if _MARK in source else None
    except (OSError, SyntaxError, ValueError):
        return
    if tree is None or file.stem.startswith("modular_"):  # transformers' templates, not imported
        return
    parts = [client.name, *file.relative_to(folder).with_suffix("").parts]
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    for name, parameters in _functions(tree):
        form = form_of(parameters)
        if form is not None:
            client.served[f"{module}:{name}"] = form.title
        elif resembles(parameters):
            client.unknown.append(f"{module}:{name}")


def _functions(tree: ast.Module) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield functions, and forward methods of classes, with the names of their parameters."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, _parameters(node)
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "forward":
                    parameters = _parameters(method)
                    if parameters[:1] == ("self",):
                        yield f"{node.name}.forward", parameters


def _parameters(node: ast.FunctionDef) -> tuple[str, ...]:
    arguments = node.args
    names = [item.arg for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    variadic = arguments.vararg is not None or arguments.kwarg is not None
    return (*names, "*") if variadic else tuple(names)
