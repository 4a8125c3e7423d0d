"""Framework of the wiring tests: every key of a configuration changes something observable.

A `WiredNode` says how to observe what a configuration makes of the keys below a name. The nodes of
this package are in `tests/own_wiring.py`; those of a project in `tests/projects/<name>/wiring.py`,
a list `NODES`. `tests/test_wiring.py` changes every key of every node.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from torch import nn

from hipie.config.loading import keys

ROOT = Path(__file__).parents[1]
# Objects within objects that are described.
MAX_DEPTH = 60


@dataclass(frozen=True)
class WiredNode:
    """Keys below a name, and how their effect is observed.

    Attributes:
        name: of a node or key, such as "MODEL.HIPIE".
        observe: what a configuration makes: any objects; see `describe`.
        values: another value by key (its full name without `name.`), where `other_value` does not
            find a valid one.
        options: by key, or "" for all, further KEY VALUE pairs with which both configurations are
            made: those that the key has its effect with.
        tested: by key, the test that shows its effect instead: "tests/file.py::test_name".
        other_nodes: names of nodes below this one, which observe their keys themselves.
    """

    name: str
    observe: Callable[[CfgNode], Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    tested: Mapping[str, str] = field(default_factory=dict)
    other_nodes: Sequence[str] = ()

    def keys(self, cfg: CfgNode) -> list[str]:
        """Full names of the keys that belong to the node, without those of Detectron2."""
        known = {*keys(get_cfg())}
        return [
            key
            for key in keys(cfg)
            if _is_below(key, self.name)
            and key not in known
            and not any(_is_below(key, other) for other in self.other_nodes)
        ]

    def has_effect(self, cfg: CfgNode, key: str) -> bool:
        """Whether another value of a key changes what is observed.

        Args:
            cfg: the configuration, which stays as it is.
            key: full name.
        """
        short = key.removeprefix(f"{self.name}.")
        before = cfg.clone()
        before.merge_from_list([*self.options.get("", ()), *self.options.get(short, ())])
        after = before.clone()
        *path, name = key.split(".")
        node = functools.reduce(getattr, path, after)
        node[name] = self.values[short] if short in self.values else other_value(node[name])
        assert node[name] != functools.reduce(getattr, path, before)[name], key
        return self._description(before) != self._description(after)

    def is_repeatable(self, cfg: CfgNode) -> bool:
        """Whether the same configuration is observed as the same twice."""
        cfg = cfg.clone()
        cfg.merge_from_list(self.options.get("", ()))
        return repr(describe(self.observe(cfg))) == repr(describe(self.observe(cfg)))

    def _description(self, cfg: CfgNode) -> Any:
        text = repr(cfg)
        known = _descriptions.setdefault(self.name, {})
        if text not in known:
            known[text] = hashlib.sha256(repr(describe(self.observe(cfg))).encode()).hexdigest()
        return known[text]


_descriptions: dict[str, dict[str, str]] = {}


def _is_below(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def other_value(value: Any) -> Any:
    """A value of the same kind that differs: a number that is larger, the other truth value."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.25 + 0.01
    if value is None:
        return 0.5
    if isinstance(value, tuple | list) and value:
        return type(value)(other_value(entry) for entry in value)
    raise ValueError(f"the test has to name another value than {value!r}")


def registered_nodes() -> list[WiredNode]:
    """Nodes of this package and of the projects that have a file of them."""
    files = [ROOT / "tests/own_wiring.py", *sorted(ROOT.glob("tests/projects/*/wiring.py"))]
    modules = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return [node for module in modules for node in importlib.import_module(module).NODES]


def test_exists(test: str, key: str) -> bool:
    """Whether a file has the test of this name, which mentions the last part of a key."""
    file, _, name = test.partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    return f"def {name}(" in text and key.rpartition(".")[2] in text


test_exists.__test__ = False  # type: ignore[attr-defined]


def describe(value: Any, depth: int = 0, inside: frozenset[int] = frozenset()) -> Any:
    """Nested tuples of all that two equal objects have in common.

    Of a module these are its types, sizes, attributes and which parameters are trained, not the
    values of its parameters. Of other tensors and arrays they are the values.
    """
    if value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if depth > MAX_DEPTH or id(value) in inside:
        return type(value).__name__
    inner = functools.partial(describe, depth=depth + 1, inside=inside | {id(value)})
    if type(value).__module__.startswith(("transformers.", "tokenizers")):
        return type(value).__name__
    if isinstance(value, nn.Parameter):
        return ("parameter", tuple(value.shape), value.requires_grad)
    if isinstance(value, torch.Tensor):
        return _digest(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray):
        return _digest(value)
    if isinstance(value, Mapping):
        return tuple(sorted((repr(inner(k)), inner(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return tuple(inner(entry) for entry in value)
    if isinstance(value, set | frozenset):
        return tuple(sorted(repr(inner(entry)) for entry in value))
    if isinstance(value, functools.partial):
        return ("partial", inner(value.func), inner(value.args), inner(value.keywords))
    if isinstance(value, type):
        return value.__qualname__
    if hasattr(value, "__qualname__"):
        cells = getattr(value, "__closure__", None) or ()
        owner = getattr(value, "__self__", None)
        return (value.__qualname__, inner(owner), tuple(inner(c.cell_contents) for c in cells))
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        hidden = (
            ("_backward_hooks", "_is_full_backward_hook") if isinstance(value, nn.Module) else ()
        )
        attributes = {name: v for name, v in vars(value).items() if name not in hidden}
        if isinstance(value, nn.Module):
            buffers = attributes.pop("_buffers")
            attributes["_buffers"] = [(n, b if b is None else b.shape) for n, b in buffers.items()]
        return (type(value).__name__, inner(attributes))
    return type(value).__name__


def _digest(values: np.ndarray) -> tuple[str, tuple[int, ...], str]:
    content = np.ascontiguousarray(values).tobytes()
    return str(values.dtype), values.shape, hashlib.sha256(content).hexdigest()
