"""Merge a file and a command line into a configuration; one sentence names what does not fit."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode


class ConfigError(ValueError):
    """A key or value that no configuration of this package has; the message names it."""


def merge(cfg: CfgNode, file: str | os.PathLike[str] = "", options: Sequence[Any] = ()) -> None:
    """Merge a YAML file and then `KEY VALUE` pairs into `cfg`, in place.

    No code of a file runs: YAML's tags for Python objects are refused.

    Args:
        cfg: with every key that may occur.
        file: Detectron2's format, with `_BASE_`; "" for none.
        options: KEY VALUE KEY VALUE ...

    Raises:
        ConfigError: for a file that cannot be read, a key that does not exist (with the nearest
            ones), a value of another type, or a key without a value.
    """
    if file:
        _merge_file(cfg, str(file))
    if len(options) % 2:
        raise ConfigError(f"{options[-1]} has no value: options are KEY VALUE pairs")
    known = set(keys(cfg))
    for key, value in zip(options[::2], options[1::2], strict=True):
        if key not in known:
            raise ConfigError(_unknown(key, known))
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError, SyntaxError) as error:
            raise ConfigError(_wrong_value(key, value, cfg)) from error


def keys(cfg: CfgNode, start: str = "") -> Iterator[str]:
    """Full names of all values, such as "SOLVER.MAX_ITER"."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from keys(value, f"{start}{name}.")
        else:
            yield f"{start}{name}"


def _merge_file(cfg: CfgNode, file: str) -> None:
    try:
        cfg.merge_from_file(file, allow_unsafe=False)
    except KeyError as error:
        key = str(error.args[0]).rpartition(" ")[2]
        raise ConfigError(f"{file}: {_unknown(key, set(keys(cfg)))}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    except (ValueError, AssertionError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from error
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{error.filename or file} cannot be read: {reason}") from error


def _unknown(key: str, known: set[str]) -> str:
    ends = {name.rpartition(".")[2]: name for name in sorted(known)}
    near = difflib.get_close_matches(key, known, 2, 0.7) or [
        ends[end] for end in difflib.get_close_matches(key.rpartition(".")[2], ends, 2, 0.7)
    ]
    hint = f"; near ones are {', '.join(near)}" if near else ""
    return f"there is no key {key}{hint}"


def _wrong_value(key: str, value: Any, cfg: CfgNode) -> str:
    node: Any = cfg
    for name in key.split("."):
        node = node[name]
    return f"{key} cannot be {value!r}: it is of type {type(node).__name__}, such as {node!r}"
