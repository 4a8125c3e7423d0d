"""What is in the output folder of a run: files of another run, keys of the interrupted one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from hipie.config.loading import keys, listed_imports
from hipie.config.reading import read_yaml
from hipie.errors import InputError
from hipie.vocabularies.json_format import VOCABULARY_FILE

# Configuration of a training that `hipie train --data` started.
FINETUNING_FILE = "finetune.yaml"
# What a training writes: files by which a run is recognised, and the others.
RUN_FILES = ("last_checkpoint", "model_*.pth", "model_*.dcp", "metrics.json")
OTHER_FILES = (
    "config.yaml",
    FINETUNING_FILE,
    "curves.png",
    "events.out.tfevents.*",
    "inference",
    "log.txt*",
    "mlflow_run_id",
    "profile",
    "results.json",
    "table.json",
    VOCABULARY_FILE,
)


class OutputFolderError(InputError):
    """Output folder with files of another run; the message names it."""


def require_fresh_folder(folder: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Check that a folder holds no other run, before a training starts anew in it.

    Args:
        folder: `OUTPUT_DIR`; it need not exist.
        overwrite: remove what the other run wrote; other files stay.

    Raises:
        OutputFolderError: naming a file of the other run, without `overwrite`.
    """
    run_paths = _matching(folder, RUN_FILES)
    if not run_paths:
        return
    if not overwrite:
        raise OutputFolderError(
            f"OUTPUT_DIR {folder} holds another run ({run_paths[0].name}): --resume continues it, "
            "--overwrite removes it, and another OUTPUT_DIR keeps both"
        )
    for path in [*run_paths, *_matching(folder, OTHER_FILES)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def changed_keys(cfg: CfgNode) -> list[str]:
    """Describe the keys that differ from those of the run in `OUTPUT_DIR`.

    Args:
        cfg: of the run that continues it.

    Returns:
        Texts "KEY: old value -> new value"; [] if the folder has no readable config.yaml.
    """
    before = _saved(cfg)
    known = set(keys(before))
    texts = []
    for key in keys(cfg):
        if key not in known:
            continue
        old, new = (_plain(reduce(getattr, key.split("."), node)) for node in (before, cfg))
        if old != new:
            texts.append(f"{key}: {old!r} -> {new!r}")
    return texts


def own_imports(config_file: str | os.PathLike[str], options: Sequence[Any]) -> list[str]:
    """Return `IMPORTS` of config.yaml in `OUTPUT_DIR`, for the continuation of that run.

    The user has permitted these modules when the run began.

    Args:
        config_file: of the run that continues it.
        options: KEY VALUE KEY VALUE ..., which override the file.

    Returns:
        [] if the file is not config.yaml in its own `OUTPUT_DIR`, or no checkpoint is beside it.
    """
    file = Path(config_file)
    if file.name != "config.yaml" or not (file.parent / "last_checkpoint").is_file():
        return []
    content = read_yaml(str(file))
    saved = content.get("OUTPUT_DIR") if isinstance(content, dict) else None
    folder = dict(zip(options[::2], options[1::2], strict=False)).get("OUTPUT_DIR", saved)
    is_own = isinstance(folder, str) and os.path.realpath(folder) == os.path.realpath(file.parent)
    return listed_imports(file) if is_own else []


def saved_value(cfg: CfgNode, key: str) -> Any:
    """Return the value of a key in config.yaml of `OUTPUT_DIR`; None if it has none."""
    return _saved(cfg).get(key)


def _saved(cfg: CfgNode) -> CfgNode:
    """Return the configuration of the run in `OUTPUT_DIR`; empty if it cannot be read."""
    file = Path(cfg.OUTPUT_DIR, "config.yaml")
    try:
        return CfgNode(read_yaml(str(file)))
    except (ValueError, TypeError, AttributeError, AssertionError):
        return CfgNode()


def _matching(folder: str | os.PathLike[str], patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(Path(folder).glob(pattern))]


def _plain(value: Any) -> Any:
    """Return a value as YAML has it: tuples as texts or lists are equal to lists."""
    if isinstance(value, str) and value[:1] in ("(", "["):
        try:
            value = yaml.safe_load(value.replace("(", "[").replace(",)", "]").replace(")", "]"))
        except yaml.YAMLError:
            return value
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value
