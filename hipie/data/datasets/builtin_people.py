"""Registration of label maps of the parts of persons: garments and faces.

Clothing Co-Parsing (Yang et al., CVPR 2014): `ccp_{train,val}`. FASSEG (Khan et al., 2015 and
2017): `fasseg_{frontal01,frontal02,multipose01}_{train,test}`. LFW Part Labels (Kae et al., CVPR
2013): `lfw_parts_{train,val,test}`.

The programs `datasets/prepare_{ccp,fasseg,lfw_parts}.py` write the label maps.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from hipie.data.datasets.catalog import register_builtin
from hipie.data.datasets.semantic_folder import load_label_maps
from hipie.data.label_values import DEFAULT_IGNORE_LABEL
from hipie.vocabularies.tables import load_classes

BACKGROUND = "background"
# Part of FASSEG -> its folder.
FASSEG_FOLDERS = {"frontal01": "V1", "frontal02": "V2", "multipose01": "V3"}


def register_people(root: Path) -> None:
    """Register parts of persons; no file is read before a data set is used.

    Args:
        root: root folder of all data sets.
    """
    clothing = root / "clothing-co-parsing"
    for split in ("train", "val"):
        register_person_parts(
            f"ccp_{split}", clothing / "photos", clothing / "label_maps" / split, "ccp"
        )
    fasseg = root / "FASSEG-repository"
    for part, folder in FASSEG_FOLDERS.items():
        for split in ("train", "test"):
            register_person_parts(
                f"fasseg_{part}_{split}",
                fasseg / folder / f"{split.title()}_RGB",
                fasseg / "label_maps" / part / split,
                "fasseg",
                image_suffix=".bmp",
            )
    faces = root / "lfw_parts"
    for split in ("train", "val", "test"):
        register_person_parts(
            f"lfw_parts_{split}",
            faces / "lfw_funneled",
            faces / "label_maps" / split,
            "lfw_parts",
        )


def register_person_parts(
    name: str, images: Path, maps: Path, table: str, *, image_suffix: str = ".jpg"
) -> None:
    """Register label maps whose values are positions in the vocabulary, 255 = ignored.

    `background` is never named to the model: in evaluation it is the pixels that no part claims,
    and counts as a class.

    Args:
        name: name of the data set.
        images: folder of images.
        maps: folder of label maps (.png) with the same names, subfolders included.
        table: table of its classes: the background, then parts.
        image_suffix: suffix of the images.
    """
    vocabulary = load_classes(table).vocabulary
    register_builtin(
        name,
        partial(load_label_maps, maps, images, image_suffix=image_suffix, key="part_seg_file_name"),
        vocabulary=vocabulary,
        stuff_classes=list(vocabulary.names),
        background_class=BACKGROUND,
        part_wholes={entry.name: entry.whole for entry in vocabulary.classes if entry.whole},
        part_ignore_label=DEFAULT_IGNORE_LABEL,
        image_root=str(images),
        sem_seg_root=str(maps),
        evaluator_type="parts",
    )
