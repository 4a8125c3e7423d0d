"""Label maps with `classes.txt`, as `--format label-map` writes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hipie.data.conversion.annotations import (
    AnnotatedImage,
    Annotations,
    ReadOptions,
    SegmentTree,
    register_reader,
)
from hipie.data.conversion.names import images_by_label_file
from hipie.data.image_io import read_label_map
from hipie.data.io.regular_file import read_file
from hipie.data.io.validation import DatasetError


@register_reader("label-map")
def read_label_maps(path: Path, options: ReadOptions) -> Annotations:
    """Read the maps of a folder: each class of an image is one stuff segment, 0 is none.

    The images have the names of their maps, and are in the folder of `--image-root`.
    """
    names = read_file(path / "classes.txt").decode("utf-8", "replace").splitlines()
    root = Path(options.image_root) if options.image_root else path.parent / "images"

    def images() -> Iterator[AnnotatedImage]:
        for file, image in images_by_label_file(path, ".png", root):
            labels = read_label_map(file)
            if labels.ndim != 2:
                raise DatasetError(f"{file}: this is not a label map, but a colour image")
            tree = SegmentTree()
            for value in np.unique(labels).tolist():
                if value > len(names):
                    raise DatasetError(f"{file}: {value} is no line of {path / 'classes.txt'}")
                if value:
                    tree.add(names[value - 1], "stuff", labels == value)
            yield AnnotatedImage(image, (labels.shape[0], labels.shape[1]), tree.segments())

    return Annotations(dict.fromkeys(names, "stuff"), images())
