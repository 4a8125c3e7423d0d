"""Reference of the configuration keys: default and meaning of each, from the code that sets it.

The meaning of a key is the comment above the line that sets its default. Lines are recorded while
the configuration is built, so keys of installed projects are documented as well.
"""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

from hipie import add_hipie_config

NODE = "node"


@dataclass(frozen=True)
class Key:
    """A key of the configuration.

    Attributes:
        name: such as "MODEL.HIPIE.HIDDEN_DIM".
        default: its value after `add_hipie_config`.
        meaning: comment above its assignment, or above that of the node of which it is an entry; ""
            without one.
        package: which sets it: "hipie", a project's package, or "detectron2".
        former: value before `add_hipie_config`, if Detectron2 has the key with another one.
    """

    name: str
    default: Any
    meaning: str
    package: str
    former: Any = None

    @property
    def section(self) -> str:
        """Name of the node that holds the key; "" for a key at the root."""
        return self.name.rpartition(".")[0]


def all_keys() -> list[Key]:
    """Return every key of the configuration, in the order in which the code sets them."""
    detectron2 = dict(_leaves(get_cfg()))
    with _recorded_assignments() as assignments:
        cfg = get_cfg()
        assignments.clear()  # Detectron2's own
        add_hipie_config(cfg)
    ordered: list[tuple[tuple[int, int], Key]] = []
    for name, default in _leaves(cfg):
        place, order = _assignment(cfg, name, assignments)
        if place is None:
            ordered.append((order, Key(name, default, "", "detectron2")))
            continue
        file, line = place
        former = detectron2.get(name)
        changed = name in detectron2 and former != default
        key = Key(
            name,
            default,
            comment_above(file, line),
            _package(file),
            former if changed else None,
        )
        if name in detectron2:
            key = Key(key.name, key.default, key.meaning, "detectron2", key.former)
        ordered.append((order, key))
    return [key for _, key in sorted(ordered, key=lambda pair: pair[0])]


def comment_above(file: str, line: int) -> str:
    """Return the comment directly above a line, as one paragraph.

    A comment that begins with "..." continues the one of the assignment before it.
    """
    comment, start = _comment(file, line)
    while comment.startswith("..."):
        previous = start - 1
        while previous > 0 and not linecache.getline(file, previous - 1).lstrip().startswith("#"):
            previous -= 1
        before, start = _comment(file, previous)
        if not before:
            break
        comment = f"{before.removesuffix('...').rstrip()} {comment.removeprefix('...').lstrip()}"
    return re.sub(r",? \.\.\.$", ".", comment)


def _comment(file: str, line: int) -> tuple[str, int]:
    """Return the comment directly above a line and the number of its first line."""
    start = line
    while linecache.getline(file, start - 1).lstrip().startswith("#"):
        start -= 1
    lines = [linecache.getline(file, number).strip() for number in range(start, line)]
    return " ".join(text.lstrip("# ") for text in lines), start


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


Assignments = dict[tuple[int, str], tuple[int, str, int, CfgNode]]


@contextmanager
def _recorded_assignments() -> Iterator[Assignments]:
    """Record file and line of every attribute that is set of a configuration node.

    Yields:
        By node and attribute: number of the assignment, file, line, and the node, which the entry
        keeps alive so that its id stays its own.
    """
    assignments: Assignments = {}
    plain = CfgNode.__setattr__

    def recording(self: CfgNode, name: str, value: Any) -> None:
        caller = inspect.currentframe().f_back
        place = (caller.f_code.co_filename, caller.f_lineno)
        assignments[id(self), name] = (len(assignments), *place, self)
        plain(self, name, value)

    CfgNode.__setattr__ = recording
    try:
        yield assignments
    finally:
        CfgNode.__setattr__ = plain


def _assignment(
    cfg: CfgNode, name: str, assignments: Assignments
) -> tuple[tuple[str, int] | None, tuple[int, int]]:
    """Return where a key, or the innermost node around it, was set, and its place in the order."""
    node, place, order = cfg, None, (-1, 0)
    for part in name.split("."):
        entry = assignments.get((id(node), part))
        if entry is not None:
            number, file, line, _ = entry
            place, order = (file, line), (number, 0)
        else:
            order = (order[0], list(node).index(part))
        node = node[part]
    return place, order


def _package(file: str) -> str:
    """Return the name of the package of a file."""
    folder = Path(file).parent
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder.name


def anchor(name: str) -> str:
    """Return the id of a key's heading."""
    return name.replace(".", "-").lower()


def text_of(meaning: str) -> str:
    """Return a comment as Markdown: names of keys, registries and modules in backquotes."""
    escaped = meaning.replace("<", "&lt;").replace("*", r"\*").replace("[", r"\[")
    return re.sub(
        r"(?<![\w`\"./-])([A-Z][A-Z0-9]*_[A-Z0-9_.]*[A-Z0-9])(?![\w`\"])", r"`\1`", escaped
    )


def entry(key: Key) -> str:
    """Return the section of one key."""
    lines = [f"#### `{key.name}` {{ #{anchor(key.name)} }}", "", f"Default: `{key.default!r}`"]
    if key.package == "detectron2" and key.former is not None:
        lines[-1] += f"; Detectron2's own: `{key.former!r}`"
    if key.meaning:
        lines += ["", text_of(key.meaning)]
    return "\n".join(lines) + "\n"


def page(title: str, introduction: str, keys: list[Key]) -> str:
    """Return a page with a section for every node and an entry for every key."""
    parts = [f"# {title}\n", introduction + "\n"]
    sections: dict[str, list[Key]] = {}
    for key in keys:
        sections.setdefault(key.section, []).append(key)
    for section, members in sections.items():
        parts.append(f"## {section or 'Root'}\n" if section else "## Keys at the root\n")
        parts += [entry(key) for key in members]
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """Return the pages of the reference: Markdown by path below `reference/config/`."""
    keys = all_keys()
    packages = list(dict.fromkeys(key.package for key in keys))
    model = [key for key in keys if key.package == "hipie" and key.name.startswith("MODEL.HIPIE.")]
    other = [key for key in keys if key.package == "hipie" and key not in model]
    how = (
        "A key is set in a file of the configuration, or as `KEY VALUE` at the end of a command "
        "line. Defaults are those of the published HIPIE R50 model; the "
        "[configurations](../configs.md) have the differences."
    )
    result = {
        "hipie.md": page("Keys of MODEL.HIPIE", how, model),
        "training_and_data.md": page("Keys of training, data and evaluation", how, other),
    }
    for package in packages:
        if package not in ("hipie", "detectron2"):
            own = [key for key in keys if key.package == package]
            result[f"{package}.md"] = page(
                f"Keys of {package}", f"They are added by the package `{package}`.", own
            )
    result["detectron2.md"] = page(
        "Keys of Detectron2",
        "They keep their meaning, which "
        "[Detectron2's documentation](https://detectron2.readthedocs.io/en/latest/modules/config.html)"
        " has. Where hipie has another default, that is said.",
        [key for key in keys if key.package == "detectron2"],
    )
    return result
