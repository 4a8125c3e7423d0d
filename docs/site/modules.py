"""Reference of the Python API: public names, registries, and every module by mkdocstrings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from hipie.registration import register_all

ROOT = Path(__file__).parents[2]
# Packages whose exported names are public (CONTRIBUTING.md, deprecation policy).
PUBLIC = ("hipie", "hipie.ops", "hipie.checkpoint", "hipie.model_zoo")
# Registries by the module that has them.
REGISTRIES = {
    "META_ARCH_REGISTRY": "detectron2.modeling",
    "BACKBONE_REGISTRY": "detectron2.modeling",
    "TEXT_ENCODER_REGISTRY": "hipie.modeling.text_encoder",
    "MATCHER_REGISTRY": "hipie.modeling.matcher.matching",
    "CRITERION_REGISTRY": "hipie.modeling.criterion.build",
    "LOSS_REGISTRY": "hipie.modeling.criterion.losses",
    "DATASET_MAPPER_REGISTRY": "hipie.data.build",
    "EVALUATOR_REGISTRY": "hipie.evaluation.build",
    "TASK_PREDICTOR_REGISTRY": "hipie.task_predictors",
    "FORMAT_REGISTRY": "hipie.batch_inference.formats",
    "EXPORTER_REGISTRY": "hipie.export.traceable",
    "OPTIMIZER_REGISTRY": "hipie.engine.optimizer",
    "EVENT_WRITER_REGISTRY": "hipie.engine.tracking",
}


@cache
def project_packages() -> list[Path]:
    """Return the folders of the projects' packages."""
    return sorted(file.parent for file in ROOT.glob("projects/*/*/__init__.py"))


@cache
def packages() -> dict[str, list[str]]:
    """Return the modules of every package by its dotted name: itself, then those inside it."""
    result: dict[str, list[str]] = {}
    for top in (ROOT / "hipie", *project_packages()):
        for file in sorted(top.rglob("*.py")):
            folder = file.parent.relative_to(top.parent)
            if (file.parent / "__init__.py").is_file():
                package = ".".join(folder.parts)
                modules = result.setdefault(package, [package])
                if file.name not in ("__init__.py", "__main__.py"):
                    modules.append(f"{package}.{file.stem}")
    return dict(sorted(result.items()))


def module_of(file: Path) -> str:
    """Return the dotted name of a Python file of hipie or a project; "" for other files."""
    for top in (ROOT / "hipie", *project_packages()):
        if file.is_relative_to(top) and file.suffix == ".py":
            parts = file.relative_to(top.parent).with_suffix("").parts
            return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return ""


def page_of(module: str) -> str:
    """Return the page of a module, below `reference/`: that of its package."""
    known = packages()
    package = module if module in known else module.rpartition(".")[0]
    return f"api/{package}.md" if package in known else ""


def defined_in(value: Any) -> str:
    """Return the dotted name under which mkdocstrings documents an object; "" if it does not."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not name or "<" in name or not page_of(module):
        return ""
    return f"{module}.{name}"


def public_names() -> Iterator[tuple[str, str, Any]]:
    """Yield package, name and object of everything that the public packages export."""
    for package in PUBLIC:
        module = import_module(package)
        for name in module.__all__:
            yield package, name, getattr(module, name)


def registered_names() -> Iterator[tuple[str, str, Any]]:
    """Yield registry, name and object of everything that hipie and the projects registered."""
    register_all()
    for registry, module in REGISTRIES.items():
        for name, value in entries(getattr(import_module(module), registry)):
            yield registry, name, value


def entries(registry: Any) -> list[tuple[str, Any]]:
    """Return names and objects of a registry, which is one of fvcore's or a dict."""
    return list(registry.items() if isinstance(registry, dict) else registry)


def reference(label: str, value: Any) -> str:
    """Return a link to an object's section, or its name in code if it has none."""
    target = defined_in(value)
    if not target and isinstance(value, type(re)):
        target = value.__name__
    return f"[`{label}`][{target}]" if target else f"`{label}`"


def first_line(value: Any) -> str:
    """Return the first line of an object's docstring, as Markdown."""
    if not (callable(value) or isinstance(value, type(re))):
        return ""
    text = (value.__doc__ or "").strip().split("\n")[0]
    return text.replace("|", r"\|").replace("<", "&lt;").replace("*", r"\*").replace("[", r"\[")


def public_page() -> str:
    """Return the page of public names and registries."""
    parts = [
        "# Public interface\n",
        "Names that stay (see the [deprecation policy](../CONTRIBUTING.md#deprecation-policy)): "
        "what these packages export, and the registries. Everything else may change.\n",
    ]
    current = ""
    for package, name, value in public_names():
        if package != current:
            current = package
            parts.append(f"\n## {package}\n\n| name | |\n|---|---|")
        parts.append(f"| {reference(name, value)} | {first_line(value)} |")
    parts.append("\n## Registries\n")
    current = ""
    for registry, name, value in registered_names():
        if registry != current:
            current = registry
            parts.append(f"\n### {registry}\n\n`{REGISTRIES[registry]}`\n\n| name | |\n|---|---|")
        parts.append(f"| {reference(name, value)} | {first_line(value)} |")
    return "\n".join(parts) + "\n"


def package_page(package: str, modules: list[str]) -> str:
    """Return the page of a package, whose modules mkdocstrings documents."""
    blocks = [f"# {package}\n"]
    for module in modules:
        blocks.append(f"::: {module}\n    options:\n      heading_level: 2\n")
    return "\n".join(blocks)


def pages() -> dict[str, str]:
    """Return the pages of the reference: Markdown by path below `reference/`."""
    result = {"public.md": public_page()}
    result |= {
        f"api/{package}.md": package_page(package, modules)
        for package, modules in packages().items()
    }
    return result
