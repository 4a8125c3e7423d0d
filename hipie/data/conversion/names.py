"""Images of label files that have their names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from hipie.data.image_io import IMAGE_SUFFIXES
from hipie.data.io.validation import DatasetError


def images_by_label_file(folder: Path, suffix: str, image_root: Path) -> Iterator[tuple[Path, str]]:
    """Iterate over the label files below a folder and the images with their names.

    The image of `a/b.txt` is `a/b.jpg`, or with another suffix of an image, below the image root.
    Where a label file has the whole name of an image, as `a/b.jpg.txt`, it is that image's.

    Args:
        folder: of the label files.
        suffix: of the label files.
        image_root: of the images.

    Raises:
        DatasetError: for a label file without an image, or with several.
    """
    stems = [file.relative_to(folder) for file in _files(folder) if file.suffix == suffix]
    names = {str(stem)[: -len(suffix)]: stem for stem in stems}
    by_stem: dict[str, list[str]] = {}
    whole: set[str] = set()
    for image in _files(image_root) if image_root.is_dir() else ():
        if image.suffix.lower() in IMAGE_SUFFIXES:
            name = str(image.relative_to(image_root))
            whole.add(name)
            by_stem.setdefault(str(Path(name).with_suffix("")), []).append(name)
    for name, stem in names.items():
        matches = (
            [name]
            if name in whole
            else [image for image in by_stem.get(name, ()) if image not in names]
        )
        if len(matches) != 1:
            reason = "there is no image" if not matches else f"there are {len(matches)} images"
            raise DatasetError(
                f"{folder / stem}: {reason} with its name in {image_root}; --image-root names the "
                "folder of the images"
            )
        yield folder / stem, str(image_root / matches[0])


def _files(folder: Path) -> Iterator[Path]:
    for current, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(current) / name for name in sorted(names) if not name.startswith("."))
