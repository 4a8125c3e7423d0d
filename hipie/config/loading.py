"""Merging of files and command lines into a configuration, and its validation."""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode

from hipie.errors import InputError, cause_of
from hipie.projects import broken_projects

_CHOICES = {
    "INPUT.FORMAT": ("RGB", "BGR"),
    "MODEL.HIPIE.TEST.TOKEN_POOLING": ("mean", "max"),
    "MODEL.HIPIE.CLIP.ENSEMBLE": ("multiply", "add"),
    "TEST.BEST_CHECKPOINT_MODE": ("max", "min"),
    "SOLVER.AMP.PRECISION": ("auto", "bfloat16", "float16"),
}
_COUNTS = (
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.MAX_ITER",
    "SOLVER.ACCUMULATION_STEPS",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.MAX_CHECKPOINTS",
    *(
        f"MODEL.HIPIE.{branch}.{key}"
        for branch in ("THINGS", "STUFF")
        for key in ("NUM_QUERIES", "NUM_HEADS", "NUM_POINTS", "DIM_FEEDFORWARD", "DECODER_LAYERS")
    ),
    "MODEL.HIPIE.THINGS.FUSION_HEADS",
)
# Group norms have 32 groups; all heads have the same number of channels.
_MULTIPLES = (
    ("MODEL.HIPIE.HIDDEN_DIM", 32),
    ("MODEL.HIPIE.HIDDEN_DIM", "MODEL.HIPIE.THINGS.NUM_HEADS"),
    ("MODEL.HIPIE.HIDDEN_DIM", "MODEL.HIPIE.STUFF.NUM_HEADS"),
    ("MODEL.HIPIE.THINGS.FUSION_EMBED_DIM", "MODEL.HIPIE.THINGS.FUSION_HEADS"),
)


class ConfigError(InputError):
    """Key or value that a configuration cannot have; the message names it."""


def merge(cfg: CfgNode, file: str | os.PathLike[str] = "", options: Sequence[Any] = ()) -> None:
    """Merge a YAML file and then `KEY VALUE` pairs into `cfg`, in place.

    No code of a file runs: YAML's tags for Python objects are refused.

    Args:
        cfg: configuration with every key that may occur.
        file: in Detectron2's format, with `_BASE_`; "" for none.
        options: KEY VALUE KEY VALUE ...

    Raises:
        ConfigError: for a file that cannot be read, an unknown key (with the nearest ones), a value
            of another type, or a key without a value.
    """
    if file:
        _merge_file(cfg, str(file))
    if len(options) % 2:
        raise ConfigError(f"{options[-1]} has no value: options are KEY VALUE pairs")
    known_keys = set(keys(cfg))
    for key, value in zip(options[::2], options[1::2], strict=True):
        if key not in known_keys:
            raise ConfigError(_unknown(key, known_keys))
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError, SyntaxError) as error:
            raise ConfigError(_wrong_value(key, value, cfg)) from error


def listed_imports(file: str | os.PathLike[str]) -> list[str]:
    """Return `IMPORTS` of a file and its bases, before the file is merged.

    The modules it names may add keys that the file sets. A file that cannot be read has none; the
    error is raised when it is merged.
    """
    try:
        content = CfgNode.load_yaml_with_base(str(file), allow_unsafe=False)
    except (OSError, ValueError, AssertionError, AttributeError, TypeError, yaml.YAMLError):
        return []
    value = content.get("IMPORTS", ())
    if isinstance(value, str):  # a tuple in YAML, as Detectron2 writes them
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return []
    return [value] if isinstance(value, str) else list(value)


def check(cfg: CfgNode) -> None:
    """Check values that have the right type and cannot work, before anything is built.

    Raises:
        ConfigError: naming the key and what it may be.
    """
    for key, choices in _CHOICES.items():
        _require(cfg, key, _value(cfg, key) in choices, " or ".join(choices))
    for key in _COUNTS:
        _require(cfg, key, _value(cfg, key) >= 1, "at least 1")
    key = "SOLVER.MAX_SKIPPED_STEPS"
    _require(cfg, key, _value(cfg, key) >= 0, "at least 0")
    _require(cfg, "MODEL_EMA.DECAY", 0 <= cfg.MODEL_EMA.DECAY < 1, "at least 0 and below 1")
    for key, divisor in _MULTIPLES:
        step = divisor if isinstance(divisor, int) else _value(cfg, divisor)
        source = "" if step == divisor else f", which is {divisor}"
        value = _value(cfg, key)
        _require(cfg, key, value > 0 and value % step == 0, f"a multiple of {step}{source}")
    metric = cfg.TEST.BEST_CHECKPOINT_METRIC.split("/")
    _require(
        cfg,
        "TEST.BEST_CHECKPOINT_METRIC",
        metric == [""] or (len(metric) == 3 and metric[0] in cfg.DATASETS.TEST),
        f"data set/task/metric with one of DATASETS.TEST ({', '.join(cfg.DATASETS.TEST)})",
    )
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise ConfigError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; it has to be cpu, cuda, cuda:1, mps or "
            "another kind of PyTorch's"
        ) from error


def keys(cfg: CfgNode, start: str = "") -> Iterator[str]:
    """Yield the full names of all values, such as "SOLVER.MAX_ITER"."""
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
        raise ConfigError(f"{file} is not YAML: {cause_of(error)}") from error
    except (ValueError, AssertionError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file}: {_file_problem(cfg, file, error)}") from error
    except OSError as error:
        raise ConfigError(f"{error.filename or file} cannot be read: {cause_of(error)}") from error


def _file_problem(cfg: CfgNode, file: str, error: Exception) -> str:
    """Describe why a file cannot be merged, from the error of Detectron2's reader."""
    if not os.path.exists(file) and "://" not in file:
        return "there is no such file"
    if isinstance(error, UnicodeError):
        return cause_of(error)
    match = re.search(r"config key: ([\w.]+)", str(error))
    if match and match[1] in set(keys(cfg)):
        current = _value(cfg, match[1])
        return (
            f"{match[1]} cannot have this value: it is of type {type(current).__name__}, "
            f"such as {current!r}"
        )
    return "this is not a configuration in Detectron2's format"


def _unknown(key: str, known_keys: set[str]) -> str:
    ends = {name.rpartition(".")[2]: name for name in sorted(known_keys)}
    suggestions = difflib.get_close_matches(key, known_keys, 2, 0.7) or [
        ends[end] for end in difflib.get_close_matches(key.rpartition(".")[2], ends, 2, 0.7)
    ]
    hint = f"; similar names are {', '.join(suggestions)}" if suggestions else ""
    return f"there is no key {key}{hint}{broken_projects()}"


def _wrong_value(key: str, value: Any, cfg: CfgNode) -> str:
    current = _value(cfg, key)
    kind = type(current).__name__
    return f"{key} cannot be {value!r}: it is of type {kind}, such as {current!r}"


def _value(cfg: CfgNode, key: str) -> Any:
    return reduce(getattr, key.split("."), cfg)


def _require(cfg: CfgNode, key: str, valid: bool, requirement: str) -> None:
    if not valid:
        raise ConfigError(f"{key} is {_value(cfg, key)!r}; it has to be {requirement}")
