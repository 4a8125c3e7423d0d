"""Reading of YAML files of strangers: plain values, limits on size, nesting and aliases."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, SequenceNode

from hipie.errors import InputError, cause_of, printable

BASE_KEY = "_BASE_"
# Bytes of a file; levels of nesting; values of a file, those of an alias counted every time.
MAX_BYTES, MAX_DEPTH, MAX_VALUES = 2**18, 50, 50_000
# Files that a configuration may be made of, counted every time.
MAX_FILES = 50
# Bits of a whole number.
MAX_BITS = 64


class ConfigError(InputError):
    """Key or value that a configuration cannot have; the message names it."""


FindBase = Callable[[str], str]
"""Returns the file of a name in the model zoo; raises an `InputError` if there is none."""


def read_with_bases(file: str, find_base: FindBase | None = None) -> dict[str, Any]:
    """Read a configuration in Detectron2's format, with the files that `_BASE_` names.

    A base is a file, or a list of them; paths are relative to the file that names them. Nothing is
    read from a network.

    Args:
        file: the configuration.
        find_base: called with the name of a base that is no such file.

    Returns:
        The values by key; those of a file override those of its bases.

    Raises:
        ConfigError: if a file is missing, too large or deeply nested, no YAML, has tags of Python
            or keys that are not text, or is a base of itself.
    """
    content, _ = read_with_sources(file, find_base)
    return content


def read_with_sources(
    file: str, find_base: FindBase | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a configuration like `read_with_bases`.

    Returns:
        The values by key, and the file that sets each value by the full name of its key, such as
        "MODEL.WEIGHTS".
    """
    return _BaseReader(find_base).read(file, ())


def read_yaml(file: str) -> Any:
    """Read a YAML file of plain values.

    Raises:
        ConfigError: see `read_with_bases`.
    """
    with _readable(file):
        text = _text_of(file)
        loader = _Loader(text, file)
        try:
            return loader.content()
        finally:
            loader.dispose()


class _BaseReader:
    """Reads a file and its bases, and counts them."""

    def __init__(self, find_base: FindBase | None) -> None:
        self._count = 0
        self._find_base = find_base

    def read(self, file: str, above: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, str]]:
        self._count += 1
        if self._count > MAX_FILES:
            raise ConfigError(f"{above[0]}: {BASE_KEY} leads to more than {MAX_FILES} files")
        path = os.path.realpath(file)
        if path in map(os.path.realpath, above):
            raise ConfigError(f"{above[-1]}: {BASE_KEY} leads back to {file}")
        content = read_yaml(file)
        content = {} if content is None else content
        if not isinstance(content, dict):
            raise ConfigError(f"{file}: this is not a configuration in Detectron2's format")
        bases = content.pop(BASE_KEY, [])
        merged: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for base in bases if isinstance(bases, list) else [bases]:
            values, from_base = self.read(self._base_file(file, base), (*above, file))
            _override(merged, values, file)
            sources |= from_base
        _override(merged, content, file)
        return merged, sources | dict.fromkeys(_value_keys(content), file)

    def _base_file(self, file: str, base: Any) -> str:
        path = _base_path(file, base)
        if self._find_base is None or os.path.exists(path):
            return path
        try:
            return self._find_base(base)
        except InputError as error:
            raise ConfigError(f"{file}: {BASE_KEY}: {error}") from error


def _base_path(file: str, base: object) -> str:
    """Return the path of a base; a relative one starts at the folder of the file."""
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{file}: {BASE_KEY} has to be a file or a list of files")
    if "://" in base or base.startswith(("//", "\\\\")):
        raise ConfigError(
            f"{file}: {BASE_KEY} is {printable(base)}, and files are not read from a network here; "
            "download it and name your copy"
        )
    return os.path.join(os.path.dirname(file), os.path.expanduser(base))


def _override(values: dict[str, Any], by: dict[str, Any], file: str) -> None:
    """Merge values into those of a base, in place, as fvcore does."""
    for key, value in by.items():
        if not isinstance(value, dict) or key not in values:
            # Dicts of an alias are merged into later, each on its own.
            values[key] = _copied(value)
        elif isinstance(values[key], dict):
            _override(values[key], value, file)
        else:
            raise ConfigError(f"{file}: {key} has keys, and is a value in {BASE_KEY}")


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    return value


def _value_keys(content: dict[str, Any], start: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _value_keys(value, f"{start}{key}.")
        else:
            yield f"{start}{key}"


def _text_of(file: str) -> str:
    """Return the text of a regular file that is not too large."""
    # A named pipe without a writer does not block.
    handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ConfigError(f"{file}: this is not a regular file")
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{file}: configurations have at most {MAX_BYTES:,} bytes")
    return content.decode("utf-8-sig")


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """Turn the errors of the operating system and of PyYAML into one sentence."""
    try:
        yield
    except ConfigError:
        raise
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {_yaml_reason(error)}") from error
    except OSError as error:
        raise ConfigError(f"{error.filename or file} cannot be read: {cause_of(error)}") from error
    except UnicodeError as error:
        raise ConfigError(f"{file}: {cause_of(error)}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # PyYAML's own constructors, for instance for the date 2001-13-40.
        raise ConfigError(f"{file}: it has a value that YAML's types do not allow") from error
    except (RecursionError, MemoryError) as error:
        raise ConfigError(f"{file}: it is nested too deeply or too large") from error


def _yaml_reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"it has a character at position {error.position} that YAML does not allow"
    return cause_of(error)


class _Loader(yaml.SafeLoader):
    """Loader of plain values that counts while it composes, before anything is built."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self._file = file
        self._depth = 0

    def content(self) -> Any:
        """Return the values of the only document."""
        node = self.get_single_node()
        if node is None:
            return None
        _Counter(self._file).count(node)
        content = self.construct_document(node)
        _check_texts(content, self._file)
        return content

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node of a document that is not nested too deeply."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            line = self.peek_event().start_mark.line + 1
            raise ConfigError(f"{self._file}: line {line} has more than {MAX_DEPTH} levels")
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, node: Node) -> None:
        line = node.start_mark.line + 1
        raise ConfigError(
            f"{self._file}: line {line} has the tag {printable(node.tag)}; configurations contain "
            "plain values only"
        )


_Loader.add_constructor(None, _Loader._refuse)


class _Counter:
    """Counts the values of composed nodes, those of aliases every time."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._counts: dict[int, int] = {}

    def count(self, node: Node) -> int:
        """Return the number of values.

        Raises:
            ConfigError: if there are more than `MAX_VALUES`, or a value contains itself.
        """
        key = id(node)
        known = self._counts.get(key)
        if known == 0:
            raise ConfigError(f"{self._file}: line {node.start_mark.line + 1} contains itself")
        if known is None:
            self._counts[key] = 0
            known = self._counts[key] = 1 + sum(map(self.count, _children(node)))
        if known > MAX_VALUES:
            raise ConfigError(f"{self._file}: it has more than {MAX_VALUES:,} values")
        return known


def _children(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _check_texts(content: Any, file: str) -> None:
    """Check that keys are text, and that text can be written to files and terminals.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(content, dict):
        for key, value in content.items():
            if not isinstance(key, str):
                shown = printable(key if not isinstance(key, int) else _digits(key))
                kind = type(key).__name__
                raise ConfigError(
                    f"{file}: the key {shown} is of type {kind}; write it in quotes to make it text"
                )
            _require_text(key, file)
            _check_texts(value, file)
    elif isinstance(content, list | tuple | set):
        for value in content:
            _check_texts(value, file)
    elif isinstance(content, str):
        _require_text(content, file)
    elif isinstance(content, int) and content.bit_length() > MAX_BITS:
        raise ConfigError(f"{file}: it has a whole number of more than {MAX_BITS} bits")


def _digits(number: int) -> str:
    """Return an integer as text; Python does not convert very long ones."""
    return str(number) if number.bit_length() < 200 else f"of {number.bit_length()} bits"


def _require_text(text: str, file: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError(f'{file}: "{printable(text)}" is not valid text (lone surrogate)')
