"""Folders of one model: its configuration, weights and class names.

`config.yaml` has the keys of the model and its input that differ from their defaults,
`model.safetensors` the weights, and `vocabulary.json` the class names that the model was trained
with, if they are known. A text encoder that was read from a folder is copied beside them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from torch import nn

from hipie.checkpoint import save_weights
from hipie.checkpoint.atomic_write import write_atomically
from hipie.config.loading import keys, listed_imports
from hipie.config.reading import read_yaml
from hipie.errors import InputError, cause_of
from hipie.model_zoo import hub
from hipie.model_zoo.models import ModelError, packaged_models, similar_models
from hipie.model_zoo.records import FileRecord
from hipie.modeling.model_folder import read_small_file
from hipie.vocabularies.json_format import (
    VOCABULARY_FILE,
    vocabulary_from_json,
    vocabulary_to_json,
)
from hipie.vocabularies.vocabulary import Vocabulary

CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "model.safetensors"
TEXT_FOLDER = "text_encoder"
# 1,203 classes of LVIS with their synonyms have 200 kB.
MAX_VOCABULARY_BYTES = 64 * 2**20
MAX_NAME_BYTES = 4096
_TEXT_SUFFIXES = (".json", ".txt", ".safetensors", ".bin", ".model")
# Keys that describe a model and its inputs, and not the machine or a training.
_SAVED = ("MODEL.", "INPUT.", "TEST.DETECTIONS_PER_IMAGE", "IMPORTS", "VERSION")
_NOT_SAVED = ("MODEL.WEIGHTS", "MODEL.WEIGHTS_EXCLUDE", "MODEL.DEVICE")


def is_model_folder(path: str | Path) -> bool:
    """Whether a path is a folder with a configuration in it."""
    return os.path.isfile(Path(path, CONFIG_FILE))


def save_model(
    model: nn.Module,
    cfg: CfgNode,
    defaults: CfgNode,
    folder: str | Path,
    vocabulary: Vocabulary | None = None,
) -> Path:
    """Write the folder of a model; files of the same names are replaced.

    Args:
        model: its weights are written in their own precision.
        cfg: its configuration.
        defaults: all keys with their defaults.
        folder: created if needed.
        vocabulary: class names, if they are known.

    Returns:
        The folder.

    Raises:
        HipieError: naming the file that cannot be written.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; name a folder, which is created")
    changed = dict(_changed(cfg, defaults))
    for number, source in enumerate(_text_folders(changed)):
        name = f"{TEXT_FOLDER}_{number}" if number else TEXT_FOLDER
        _copy_text_encoder(Path(source), path / name)
        changed |= {key: name for key, value in changed.items() if value == source}
    save_weights(model, path / WEIGHTS_FILE, half=False)
    text = yaml.safe_dump(_nested(changed), sort_keys=False)
    write_atomically(path / CONFIG_FILE, lambda name: _write_text(name, text))
    if vocabulary is not None:
        classes = vocabulary_to_json(vocabulary)
        write_atomically(path / VOCABULARY_FILE, lambda name: _write_text(name, classes))
    else:
        (path / VOCABULARY_FILE).unlink(missing_ok=True)
    return path


def folder_parts(folder: str | Path) -> tuple[str, str, list[str]]:
    """Return configuration, weights and further options of a model's folder, or of a training's.

    Raises:
        ModelError: if one of the files is missing.
    """
    path = Path(folder)
    weights = _weights_file(path)
    if weights is None or not is_model_folder(path):
        missing = CONFIG_FILE if weights is not None else WEIGHTS_FILE
        raise ModelError(
            f"{path} is not the folder of a model: it has no {missing}; Segmenter.save_pretrained "
            "writes one"
        )
    options = []
    for key, value in _text_sources(path / CONFIG_FILE):
        if value.startswith(TEXT_FOLDER) and os.path.isdir(path / value):
            options += [key, str((path / value).resolve())]
    return str(path / CONFIG_FILE), weights, options


def _weights_file(folder: Path) -> str | None:
    """Return the weights in a folder: of `save_model`, or of a training the best or last ones.

    Of a training with averaged weights, those are taken.
    """
    best = (WEIGHTS_FILE, "model_best_ema.pth", "model_best.pth")
    file = next((folder / name for name in best if os.path.exists(folder / name)), None)
    if file is not None:
        return str(file)
    names = ["model_final.pth"]
    with contextlib.suppress(InputError, ValueError):
        last = read_small_file(folder / "last_checkpoint", MAX_NAME_BYTES).decode("utf-8").strip()
        names.insert(0, Path(last).name)
    file = next((folder / name for name in names if name and os.path.exists(folder / name)), None)
    if file is None:
        return None
    return f"{file}?ema=True" if _has_averaged_weights(folder) else str(file)


def _has_averaged_weights(folder: Path) -> bool:
    """Whether the checkpoints of a training have averaged weights, by its configuration."""
    try:
        content = read_yaml(str(folder / CONFIG_FILE))
    except InputError:
        return False  # the error is raised when the configuration is merged
    node = content.get("MODEL_EMA") if isinstance(content, dict) else None
    return isinstance(node, dict) and node.get("ENABLED") is True


def folder_vocabulary(folder: str | Path) -> Vocabulary | None:
    """Read the class names in a model's folder; None if it has none.

    Raises:
        InputError: naming the file, if it is damaged.
    """
    file = Path(folder, VOCABULARY_FILE)
    if not file.exists():
        return None
    try:
        text = read_small_file(file, MAX_VOCABULARY_BYTES).decode("utf-8")
    except UnicodeError as error:
        raise InputError(f"{file} cannot be read: {cause_of(error)}") from error
    return vocabulary_from_json(text, str(file))


def hub_folder(repository: str, revision: str = "") -> Path:
    """Download the folder of a model from a repository of the hub, or find it in the cache.

    Args:
        repository: "owner/name".
        revision: commit, branch or tag; "" for the newest.

    Returns:
        The folder in the hub's cache.

    Raises:
        ModelError: if the repository has no such folder, cannot be reached, or its configuration
            would run code.
    """
    name = f"{repository}@{revision}" if revision else repository
    try:
        files = _cached_folder(repository, revision) if hub.is_offline() else None
        if files is None:
            files = _download_folder(repository, revision)
    except hub.HubRequestError as error:
        cached = None if hub.is_offline() else _cached_folder(repository, revision)
        if cached is None:
            raise ModelError(
                f"{name}: {hub.address(repository)}: {error}; {similar_models(repository)}, of "
                f"which {packaged_models()[0]} is in the package"
            ) from error
        files = cached
    imports = listed_imports(files[CONFIG_FILE])
    if imports:
        raise ModelError(
            f"{name}: its configuration imports {', '.join(imports)}, which would run code; "
            f"{files[CONFIG_FILE].parent} has its files, from which a copy without IMPORTS can be "
            "made"
        )
    return files[CONFIG_FILE].parent


def _cached_folder(repository: str, revision: str) -> dict[str, Path] | None:
    """Return the files of a repository in the cache; None if they are not all there."""
    paths = {
        name: hub.cached_file(repository, name, revision) for name in (CONFIG_FILE, WEIGHTS_FILE)
    }
    files = {name: path for name, path in paths.items() if path is not None}
    return files if len(files) == len(paths) else None


def _download_folder(repository: str, revision: str) -> dict[str, Path]:
    if hub.is_offline():
        raise hub.HubRequestError("the hub's offline mode is set (HF_HUB_OFFLINE)")
    listed = {entry.file: entry for entry in hub.list_files(repository, revision)}
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in listed:
            raise hub.HubRequestError(
                f"it has no {name}, so that it is not a folder that Segmenter.save_pretrained wrote"
            )
    needed = [name for name in listed if _belongs_to_model(name)]
    files = {}
    for name in needed:
        # By the name of the revision, so that the cache knows what it stands for when offline.
        entry = FileRecord(name, revision, listed[name].sha256, listed[name].size)
        files[name] = hub.download_file(repository, entry)
        hub.require_sha256(files[name], entry.sha256)
    return files


def _belongs_to_model(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    if not folder:
        return file in (CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE)
    return folder.startswith(TEXT_FOLDER) and file.endswith(_TEXT_SUFFIXES)


def _changed(cfg: CfgNode, defaults: CfgNode) -> Iterator[tuple[str, Any]]:
    """Yield keys of a model and its input whose values differ from their defaults."""
    known = set(keys(defaults))
    for key in keys(cfg):
        saved = key.startswith(_SAVED) and key not in _NOT_SAVED
        value = reduce(getattr, key.split("."), cfg)
        default = reduce(getattr, key.split("."), defaults) if key in known else None
        if saved and (key == "VERSION" or key not in known or value != default):
            yield key, value


def _text_folders(changed: dict[str, Any]) -> list[str]:
    """Return the values of keys of text encoders that are folders on this machine."""
    values = [value for key, value in changed.items() if key.endswith(".TEXT.SOURCE")]
    return [
        value
        for value in dict.fromkeys(values)
        if value and os.path.isdir(os.path.expanduser(value))
    ]


def _copy_text_encoder(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.expanduser().iterdir()):
        if file.is_file() and file.suffix in _TEXT_SUFFIXES:
            shutil.copyfile(file, target / file.name)


def _text_sources(config: Path) -> Iterator[tuple[str, str]]:
    """Yield the keys of text encoders in a configuration, with their values."""
    try:
        content = read_yaml(str(config))
    except InputError:
        return  # the error is raised when the configuration is merged
    pending: list[tuple[str, Any]] = [("", content)]
    while pending:
        start, node = pending.pop()
        for name, value in node.items() if isinstance(node, dict) else ():
            key = f"{start}{name}"
            if key.endswith(".TEXT.SOURCE") and isinstance(value, str):
                yield key, value
            pending.append((f"{key}.", value))


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *nodes, last = key.split(".")
        node = tree
        for name in nodes:
            node = node.setdefault(name, {})
        node[last] = _plain(value)
    return tree


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return value


def _write_text(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
