"""Merging of files and command lines into a configuration, and its validation."""

from __future__ import annotations

import ast
import difflib
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import reduce
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.config.compat import downgrade_config, guess_version, upgrade_config

from hipie.config.dataset_entries import resolve_paths
from hipie.config.reading import ConfigError, FindBase, read_with_bases
from hipie.errors import printable
from hipie.projects import broken_projects

_CHOICES = {
    "INPUT.FORMAT": ("RGB", "BGR"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "MODEL.HIPIE.TEST.TOKEN_POOLING": ("mean", "max"),
    "MODEL.HIPIE.CLIP.ENSEMBLE": ("multiply", "add"),
    "MODEL.HIPIE.CLIP.MASK_FEATURES": ("class_token", "patch_pooling", "crops"),
    "MODEL.HIPIE.THINGS.MASK_HEAD": ("dynamic", "dot_product"),
    "TEST.BEST_CHECKPOINT_MODE": ("max", "min"),
    "MODEL.PRECISION": ("float32", "bfloat16", "int8", "auto"),
    "SOLVER.AMP.PRECISION": ("auto", "bfloat16", "float16"),
}
# Former keys, and what to write instead.
_REPLACED = {"TEST.BFLOAT16": "MODEL.PRECISION, which is float32, bfloat16, int8 or auto"}
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
    "MODEL.HIPIE.LOSS.SIM_OTA.NUM_CANDIDATES",
)
# Numbers, or tuples of numbers, that are shares or probabilities.
_SHARES = (
    "INPUT.EXPRESSION_FLIP_PROB",
    "INPUT.COPY_PASTE.PROBABILITY",
    "INPUT.LSJ.PROBABILITY",
    "MODEL.HIPIE.OBJECT_MASK_THRESHOLD",
    "MODEL.HIPIE.OVERLAP_THRESHOLD",
    "MODEL.HIPIE.TEST.NMS_THRESHOLD",
    "MODEL.HIPIE.CLIP.ALPHA",
    "MODEL.HIPIE.CLIP.BETA",
)
_POSITIVE = (
    "MODEL.HIPIE.TEST.TEMPERATURE",
    "MODEL.HIPIE.CLIP.THING_TEMPERATURE",
    "MODEL.HIPIE.LOSS.SIM_OTA.CENTER_RADIUS",
    "INPUT.MAX_PIXELS",
    "DATASETS.MAX_ANNOTATION_BYTES",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.MAX_SIZE_TEST",
    "INPUT.LSJ.MIN_SCALE",
    "INPUT.LSJ.SIZE",
    "TEST.DETECTIONS_PER_IMAGE",
)
_NOT_NEGATIVE = (
    "DATALOADER.NUM_WORKERS",
    "INPUT.MAX_OBJECTS",
    "INPUT.MIN_PART_AREA",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MIN_SIZE_TRAIN",
    "INPUT.SQUARE_SIZE",
    "MODEL.HIPIE.STUFF.DENOISING_NOISE",
    "MODEL.HIPIE.STUFF.DENOISING_QUERIES",
    "MODEL.HIPIE.THINGS.DENOISING_QUERIES",
    "MODEL.HIPIE.TEST.MIN_SOFTMAX_CLASSES",
    "MODEL.HIPIE.CLIP.SCORE_POWERS",
    *(f"MODEL.HIPIE.LOSS.SIM_OTA.{key}" for key in ("CLASS", "GIOU", "OFF_CENTER", "OUTSIDE")),
    *(f"MODEL.HIPIE.LOSS.PROPOSAL_COSTS.{key}" for key in ("CLASS", "BOX", "GIOU")),
    *(f"MODEL.HIPIE.LOSS.THING_COSTS.{key}" for key in ("CLASS", "BOX", "GIOU", "MASK", "DICE")),
    "SOLVER.BASE_LR",
    "SOLVER.MAX_GRAD_NORM",
    "SOLVER.MAX_SKIPPED_STEPS",
    "SOLVER.WEIGHT_DECAY",
    "TEST.EVAL_PERIOD",
)
# Markers, separators and one class name of some tokens.
MIN_TEXT_WINDOW = 16
# Group norms have 32 groups; all heads have the same number of channels.
_MULTIPLES = (
    ("MODEL.HIPIE.HIDDEN_DIM", 32),
    ("MODEL.HIPIE.HIDDEN_DIM", "MODEL.HIPIE.THINGS.NUM_HEADS"),
    ("MODEL.HIPIE.HIDDEN_DIM", "MODEL.HIPIE.STUFF.NUM_HEADS"),
    ("MODEL.HIPIE.THINGS.FUSION_EMBED_DIM", "MODEL.HIPIE.THINGS.FUSION_HEADS"),
)


def merge(
    cfg: CfgNode,
    file: str | os.PathLike[str] = "",
    options: Sequence[Any] = (),
    find_base: FindBase | None = None,
) -> None:
    """Merge a YAML file and then `KEY VALUE` pairs into `cfg`, in place.

    No code of a file runs, and its size and nesting are limited; see `read_with_bases`.
    Paths of data sets are relative to the file that has them or else to the working folder, see
    `resolve_paths`.

    Args:
        cfg: configuration with every key that may occur.
        file: in Detectron2's format, with `_BASE_`; "" for none.
        options: KEY VALUE KEY VALUE ...
        find_base: see `read_with_bases`.

    Raises:
        ConfigError: for a file that cannot be read, an unknown key (with the nearest ones), a value
            of another type, or a key without a value.
    """
    if file:
        _merge_file(cfg, str(file), find_base)
        resolve_paths(cfg, file, find_base)
    if len(options) % 2:
        raise ConfigError(f"{options[-1]} has no value: options are KEY VALUE pairs")
    known_keys = set(keys(cfg))
    for key, value in zip(options[::2], options[1::2], strict=True):
        if key not in known_keys:
            raise ConfigError(_unknown(key, known_keys))
        try:
            cfg.merge_from_list([key, value])
        except (ValueError, AssertionError, SyntaxError, RecursionError, MemoryError) as error:
            raise ConfigError(_wrong_value(key, value, cfg)) from error


def listed_imports(file: str | os.PathLike[str], find_base: FindBase | None = None) -> list[str]:
    """Return `IMPORTS` of a file and its bases, before the file is merged.

    The modules it names may add keys that the file sets.

    Raises:
        ConfigError: for a file that cannot be read, or names that are not text.
    """
    return import_names(read_with_bases(str(file), find_base).get("IMPORTS", ()), str(file))


def import_names(value: Any, source: str) -> list[str]:
    """Return the modules and files of a value of `IMPORTS`.

    Args:
        value: names, one name, or a text that has them as Python writes a tuple.
        source: where the value is from, for the message.

    Raises:
        ConfigError: if it is something else.
    """
    if isinstance(value, str):  # a tuple in YAML, as Detectron2 writes them
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            value = ast.literal_eval(value)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{source}: IMPORTS has to be a list of modules or files")
    return list(names)


def check(cfg: CfgNode) -> None:
    """Check values that have the right type and cannot work, before anything is built.

    Raises:
        ConfigError: naming the key and what it may be.
    """
    for key, choices in _CHOICES.items():
        _require(cfg, key, _value(cfg, key) in choices, " or ".join(choices))
    for key in _COUNTS:
        _require(cfg, key, _value(cfg, key) >= 1, "at least 1")
    for key in _SHARES:
        shares = all(0 <= number <= 1 for number in _numbers(cfg, key))
        _require(cfg, key, shares, "from 0 to 1")
    for key in _POSITIVE:
        _require(cfg, key, all(0 < n < math.inf for n in _numbers(cfg, key)), "above 0")
    for key in _NOT_NEGATIVE:
        _require(cfg, key, all(0 <= n < math.inf for n in _numbers(cfg, key)), "at least 0")
    for key in keys(cfg):
        _require(cfg, key, _is_no_nan(_value(cfg, key)), "a number, which nan is not")
    _check_sizes(cfg)
    window = cfg.MODEL.HIPIE.TEXT.WINDOW
    _require(
        cfg, "MODEL.HIPIE.TEXT.WINDOW", window >= MIN_TEXT_WINDOW, f"at least {MIN_TEXT_WINDOW}"
    )
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
    valid = cfg.TEST.PART_MASKS in ("", "sam", "ground_truth")
    _require(cfg, "TEST.PART_MASKS", valid, '"", "sam" or "ground_truth"')
    if cfg.TEST.PART_MASKS == "sam" and not cfg.TEST.SAM:
        raise ConfigError('TEST.PART_MASKS is "sam", but TEST.SAM names no model')
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise ConfigError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}; it has to be cpu, cuda, cuda:1, mps or "
            "another kind of PyTorch's"
        ) from error


def _check_sizes(cfg: CfgNode) -> None:
    """Check keys of sizes that belong together."""
    sizes, key = cfg.INPUT.MIN_SIZE_TRAIN, "INPUT.MIN_SIZE_TRAIN"
    in_range = cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range"
    requirement = "two lengths with MIN_SIZE_TRAIN_SAMPLING range" if in_range else "not empty"
    count = len(_numbers(cfg, key))
    _require(cfg, key, count == 2 and 0 not in sizes if in_range else count > 0, requirement)
    jitter = cfg.INPUT.LSJ
    at_least = f"at least INPUT.LSJ.MIN_SCALE, {jitter.MIN_SCALE}"
    _require(cfg, "INPUT.LSJ.MAX_SCALE", jitter.MAX_SCALE >= jitter.MIN_SCALE, at_least)
    two = "two numbers, of things and of stuff"
    for key in ("MODEL.HIPIE.CLIP.ALPHA", "MODEL.HIPIE.CLIP.BETA"):
        _require(cfg, key, len(_numbers(cfg, key)) == 2, two)


def _numbers(cfg: CfgNode, key: str) -> tuple[float, ...]:
    value = _value(cfg, key)
    numbers = tuple(value) if isinstance(value, tuple | list) else (value,)
    valid = all(isinstance(number, int | float) for number in numbers)
    _require(cfg, key, valid, "a number, or numbers")
    return numbers


def _is_no_nan(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_no_nan(entry) for entry in value)
    return not (isinstance(value, float) and math.isnan(value))


def keys(cfg: CfgNode, start: str = "") -> Iterator[str]:
    """Yield the full names of all values, such as "SOLVER.MAX_ITER"."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from keys(value, f"{start}{name}.")
        else:
            yield f"{start}{name}"


def _merge_file(cfg: CfgNode, file: str, find_base: FindBase | None) -> None:
    if not os.path.exists(file):
        raise ConfigError(f"{file}: there is no such file")
    content = read_with_bases(file, find_base)
    try:
        _merge_content(cfg, content, file)
    except KeyError as error:
        key = str(error.args[0]).rpartition(" ")[2]
        raise ConfigError(f"{file}: {_unknown(printable(key), set(keys(cfg)))}") from error
    except ConfigError:
        raise
    except (ValueError, AssertionError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file}: {_file_problem(cfg, error)}") from error
    except (RecursionError, MemoryError) as error:
        raise ConfigError(f"{file}: it has a value that is nested too deeply") from error


def _merge_content(cfg: CfgNode, content: dict[str, Any], file: str) -> None:
    """Merge the values of a file as Detectron2's `merge_from_file` does, also of an old version."""
    loaded = CfgNode(content)
    version = loaded.get("VERSION", None)
    version = guess_version(loaded, file) if version is None else version
    if type(version) is not int or not 1 <= version <= cfg.VERSION:
        raise ConfigError(f"{file}: VERSION has to be from 1 to {cfg.VERSION}")
    if version == cfg.VERSION:
        cfg.merge_from_other_cfg(loaded)
        return
    old = downgrade_config(cfg, to_version=version)
    old.merge_from_other_cfg(loaded)
    upgraded = upgrade_config(old)
    cfg.clear()
    cfg.update(upgraded)


def _file_problem(cfg: CfgNode, error: Exception) -> str:
    """Describe why a file cannot be merged, from the error of Detectron2's configuration."""
    match = re.search(r"config key: ([\w.]+)", str(error))
    if match and match[1] in set(keys(cfg)):
        current = _value(cfg, match[1])
        return (
            f"{match[1]} cannot have this value: it is of type {type(current).__name__}, "
            f"such as {current!r}"
        )
    return "this is not a configuration in Detectron2's format"


def _unknown(key: str, known_keys: set[str]) -> str:
    if key in _REPLACED:
        return f"there is no key {key} any more; use {_REPLACED[key]}"
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
