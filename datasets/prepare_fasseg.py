#!/usr/bin/env python
"""FASSEG: label maps of hair, skin, nose, eyes and mouth from its coloured label images.

    python datasets/prepare_fasseg.py [--root datasets] [--workers N]
    python datasets/prepare_fasseg.py --check [--root datasets]

Clone the repository, so that there are `FASSEG-repository/V1/` (Frontal01), `V2/` (Frontal02) and
`V3/` (Multipose01) with `{Train,Test}_RGB/*.bmp` and `{Train,Test}_Labels/*.bmp`; V3 has
`{Train,Test}_labels/` and a folder for each angle. Written: `FASSEG-repository/label_maps/
{frontal01,frontal02,multipose01}/{train,test}/`. Those of the three that are missing are left out.

Background is red, hair (with eyebrows) dark red, skin yellow, nose cyan, eyes blue, mouth green.
The colours are not exact: many borders are blended, and such pixels are ignored (255). Four label
images of Multipose01's test split have another size than their photographs; these are left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from hipie.data.datasets.builtin_people import FASSEG_FOLDERS
from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.data.image_io import open_image
from hipie.data.preparation.checks import Check, check_label_maps
from hipie.data.preparation.cli import run_in_place
from hipie.data.preparation.label_maps import (
    IGNORE_LABEL_8_BIT,
    Job,
    convert_all,
    relabel_colours,
)
from hipie.data.preparation.sources import DownloadSource
from hipie.errors import MissingFileError

FOLDER = "FASSEG-repository"
SOURCES = [
    DownloadSource(
        "FASSEG",
        "https://github.com/massimomauro/FASSEG-repository",
        "0.1 GB",
        "none stated; citation asked for",
        files=tuple(
            f"{FOLDER}/{folder}/{split}_{kind}"
            for folder in FASSEG_FOLDERS.values()
            for split in ("Train", "Test")
            for kind in ("RGB", "[Ll]abels")
        ),
    )
]
# Background, hair, skin, nose, eyes, mouth.
COLOURS = [(255, 0, 0), (127, 0, 0), (255, 255, 0), (0, 255, 255), (0, 0, 255), (0, 255, 0)]
SPLITS = ("train", "test")
PUBLISHED = {
    ("frontal01", "train"): 20,
    ("frontal01", "test"): 50,
    ("frontal02", "train"): 20,
    ("frontal02", "test"): 50,
    ("multipose01", "train"): 182,
    ("multipose01", "test"): 92,
}


def prepare(root: Path, workers: int) -> None:
    """Write the label maps of the existing parts."""
    present = {part: folder for part, folder in FASSEG_FOLDERS.items() if _is_there(root, folder)}
    if not present:
        folders = " nor ".join(str(root / FOLDER / folder) for folder in FASSEG_FOLDERS.values())
        raise MissingFileError(f"there is neither {folders}")
    for part, folder in present.items():
        for split in SPLITS:
            label_root = _label_root(root, folder, split)
            image_root = root / FOLDER / folder / f"{split.title()}_RGB"
            jobs = []
            for path in sorted(label_root.rglob("*.bmp")):
                name = path.relative_to(label_root)
                if _has_other_size(path, image_root / name):
                    print(f"left out {path}: its size is not that of {image_root / name}")
                else:
                    target = root / FOLDER / "label_maps" / part / split / name
                    jobs.append(Job((path,), target.with_suffix(".png")))
            convert_all(partial(relabel_colours, COLOURS), jobs, workers, f"{part} {split}")


def _is_there(root: Path, folder: str) -> bool:
    return (root / FOLDER / folder).is_dir()


def _label_root(root: Path, folder: str, split: str) -> Path:
    """Return the folder of the label images; its name is spelled in two ways."""
    names = [f"{split.title()}_{word}" for word in ("Labels", "labels")]
    for name in names:
        if (root / FOLDER / folder / name).is_dir():
            return root / FOLDER / folder / name
    raise MissingFileError(f"{root / FOLDER / folder / names[0]}: there is no such folder")


def _has_other_size(labels: Path, image: Path) -> bool:
    with open_image(labels, "label map") as first, open_image(image) as second:
        return first.size != second.size


def checks(root: Path, workers: int) -> Iterator[Check]:
    """Yield the checks of all existing label maps."""
    existing = [part for part, folder in FASSEG_FOLDERS.items() if _is_there(root, folder)]
    for part in existing or FASSEG_FOLDERS:
        for split in SPLITS:
            load = partial(
                load_label_maps,
                root / FOLDER / "label_maps" / part / split,
                root / FOLDER / FASSEG_FOLDERS[part] / f"{split.title()}_RGB",
                image_suffix=".bmp",
                key="part_seg_file_name",
            )
            labels, count = [*range(len(COLOURS)), IGNORE_LABEL_8_BIT], PUBLISHED.get((part, split))
            yield f"{part} {split}", partial(check_label_maps, load, labels, count, workers)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    return run_in_place(arguments, (__doc__ or "").split("\n")[0], SOURCES, prepare, checks)


if __name__ == "__main__":
    sys.exit(main())
