"""Paths of data sets, and the check that their files exist."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from hipie.data.io.fields import EntryFaults
from hipie.data.io.missing_images import missing_images_accepted
from hipie.data.io.validation import DatasetError


def datasets_root() -> Path:
    """Return the root folder of all data sets, as Detectron2 defines it.

    Returns:
        `$DETECTRON2_DATASETS`, or `datasets` in the working directory.
    """
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def missing_files(paths: Iterable[str]) -> list[str]:
    """Return the paths that are not files; each folder is listed once.

    Args:
        paths: paths of files, in any order.
    """
    names: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in names:
            names[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in names[folder]:
            missing.append(path)
    return missing


def require_image_files(
    path: str | os.PathLike[str],
    images: Mapping[Any, dict[str, Any]],
    image_root: str | os.PathLike[str],
    faults: EntryFaults | None = None,
    kind: str = "image",
) -> None:
    """Check that every image of an annotation file exists, and correct the spelling of its name.

    A `file_name` with backslashes, in another Unicode form or in other case is replaced by that of
    the file that it fits, if it fits exactly one.

    Args:
        path: the annotation file, for error messages.
        images: its `images` by id, whose `file_name` may be changed.
        image_root: folder that their `file_name` is relative to.
        faults: collects the errors; None = they are raised.
        kind: what the files are called in messages.

    Raises:
        DatasetError: naming the file and the images that are missing.
    """
    collected = EntryFaults(path) if faults is None else faults
    missing = missing_images(images.values(), image_root)
    for image in () if missing_images_accepted() else missing:
        collected.add(
            DatasetError(
                f'{path}: the {kind} "{image["file_name"]}" of image {image["id"]} is not in '
                f"{image_root}"
            )
        )
    if faults is None:
        collected.raise_if_any()


def missing_images(
    images: Iterable[dict[str, Any]], image_root: str | os.PathLike[str]
) -> list[dict[str, Any]]:
    """Return the images whose file does not exist; spellings of names are corrected.

    Args:
        images: entries with `file_name`, which may be changed.
        image_root: folder that the names are relative to.
    """
    by_path: dict[str, list[dict[str, Any]]] = {}
    for image in images:
        by_path.setdefault(os.path.join(image_root, image["file_name"]), []).append(image)
    folders: dict[str, dict[str, list[str]]] = {}
    missing = []
    for path in missing_files(by_path):
        for image in by_path[path]:
            spellings = _spellings(str(image_root), image["file_name"], folders)
            if len(spellings) == 1:
                image["file_name"] = spellings[0]
            else:
                missing.append(image)
    return missing


def _spellings(root: str, name: str, folders: dict[str, dict[str, list[str]]]) -> list[str]:
    """Return the files that a name fits but for backslashes, Unicode form and case.

    Args:
        root: folder that the name is relative to.
        name: path of a file.
        folders: entries of the folders that were listed before, by `_folded` name.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    start = "/" if parts[:1] == ("/",) else ""
    candidates = [start]
    for part in parts[1:] if start else parts:
        folder_names = [(known, os.path.join(root, known)) for known in candidates]
        candidates = []
        for known, folder in folder_names:
            if part in (".", ".."):
                candidates.append(os.path.join(known, part))
                continue
            if folder not in folders:
                folders[folder] = _list_folder(folder)
            fitting = folders[folder].get(_folded(part), [])
            same_case = [entry for entry in fitting if _composed(entry) == _composed(part)]
            best = [part] if part in fitting else same_case or fitting
            candidates += [os.path.join(known, entry) for entry in best]
    return [known for known in candidates if os.path.isfile(os.path.join(root, known))]


def _list_folder(folder: str) -> dict[str, list[str]]:
    entries: dict[str, list[str]] = {}
    for entry in os.listdir(folder or ".") if os.path.isdir(folder or ".") else ():
        entries.setdefault(_folded(entry), []).append(entry)
    return entries


def _folded(name: str) -> str:
    """Return a form that spellings of a name share that differ in case and Unicode form."""
    return _composed(_composed(name).casefold())


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
