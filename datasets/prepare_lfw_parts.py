#!/usr/bin/env python
"""LFW Part Labels: label maps of hair and skin from its coloured label images.

    python datasets/prepare_lfw_parts.py [--root datasets] [--workers N]
    python datasets/prepare_lfw_parts.py --check [--root datasets]

Unpack both archives in `lfw_parts/`, and put the three lists beside them, so that there are
`lfw_parts/lfw_funneled/<name>/<name>_0001.jpg`, `lfw_parts/parts_lfw_funneled_gt_images/
<name>_0001.ppm` and `lfw_parts/parts_{train,validation,test}.txt`, whose lines are a name and a
number. In the label images hair is red, skin green and background blue. Written:
`lfw_parts/label_maps/{train,val,test}/<name>/*.png`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.data.io.validation import DatasetError
from hipie.data.preparation.checks import Check, check_label_maps
from hipie.data.preparation.cli import run_in_place
from hipie.data.preparation.label_maps import (
    IGNORE_LABEL_8_BIT,
    Job,
    convert_all,
    relabel_colours,
)
from hipie.data.preparation.sources import DownloadSource
from hipie.errors import MissingFileError, printable

FOLDER = "lfw_parts"
PAGE, TERMS = "http://vis-www.cs.umass.edu/lfw", "for research; owners of the photographs unknown"
SPLITS = {"train": "train", "val": "validation", "test": "test"}
SOURCES = [
    DownloadSource(
        "funneled LFW",
        f"{PAGE}/lfw-funneled.tgz",
        "233 MB",
        TERMS,
        files=(f"{FOLDER}/lfw_funneled",),
    ),
    DownloadSource(
        "part labels",
        f"{PAGE}/part_labels/parts_lfw_funneled_gt_images.tgz",
        "2,927 files",
        TERMS,
        files=(f"{FOLDER}/parts_lfw_funneled_gt_images",),
    ),
    *(
        DownloadSource(
            f"list of {split}",
            f"{PAGE}/part_labels/parts_{name}.txt",
            "a text",
            TERMS,
            files=(f"{FOLDER}/parts_{name}.txt",),
        )
        for split, name in SPLITS.items()
    ),
]
# Background, hair, skin.
COLOURS = [(0, 0, 255), (255, 0, 0), (0, 255, 0)]
PUBLISHED = {"train": 1_500, "val": 500, "test": 927}
LINE = re.compile(r"([\w.'-]+)\s+(\d{1,4})")


def prepare(root: Path, workers: int) -> None:
    """Write the label maps."""
    folder = root / FOLDER
    for split, list_name in SPLITS.items():
        maps = folder / "label_maps" / split
        jobs = [
            Job(
                (folder / "parts_lfw_funneled_gt_images" / f"{stem}.ppm",),
                maps / person / f"{stem}.png",
            )
            for person, stem in read_list(folder / f"parts_{list_name}.txt")
        ]
        convert_all(partial(relabel_colours, COLOURS), jobs, workers, f"LFW {split}")


def read_list(path: Path) -> list[tuple[str, str]]:
    """Return the pairs of person and image name of a list.

    Raises:
        FileNotFoundError, DatasetError: if there is no such file, or naming a line of another form.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: there is no such list")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        match = LINE.fullmatch(line.strip())
        if match is None:
            raise DatasetError(
                f"{path}: line {number} is not a name and a number: {printable(line)}"
            )
        pairs.append((match[1], f"{match[1]}_{int(match[2]):04}"))
    return pairs


def checks(root: Path, workers: int) -> Iterator[Check]:
    """Yield the checks of all label maps."""
    for split in SPLITS:
        load = partial(
            load_label_maps,
            root / FOLDER / "label_maps" / split,
            root / FOLDER / "lfw_funneled",
            key="part_seg_file_name",
        )
        labels, count = [*range(len(COLOURS)), IGNORE_LABEL_8_BIT], PUBLISHED.get(split)
        yield f"label maps of {split}", partial(check_label_maps, load, labels, count, workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_in_place(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
