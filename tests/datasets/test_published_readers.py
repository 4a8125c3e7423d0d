"""What published readers found in the generated files, and what this package's find.

The numbers are those of `refer` and `grefer` (ReLA's copies) and of D3's toolkit (`ddd-dataset`
0.1.2), which read the very trees that are written here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog

from hipie.data.datasets.builtin_referring import register_referring_datasets
from hipie.data.io.paths import datasets_root
from hipie.evaluation.metrics.expression_iou import target_rles
from tests import referring_trees as trees
from tests.programs import program

# Refs (of GRD: expressions), pairs of an expression and an image, pixels of all their masks.
PUBLISHED = {
    "refcoco_unc_train": (2, 4, 324),
    "refcoco_unc_val": (2, 5, 828),
    "refcoco_unc_testA": (2, 6, 1002),
    "refcoco_unc_testB": (2, 7, 1170),
    "refcocog_umd_train": (2, 4, 324),
    "refcocog_umd_val": (2, 5, 828),
    "refcocog_umd_test": (2, 6, 1002),
    "grefcoco_unc_train": (3, 5, 600),
    "grefcoco_unc_val": (3, 5, 812),
    "grefcoco_unc_testA": (3, 5, 716),
    "grefcoco_unc_testB": (3, 5, 724),
    "grd_intra_full": (4, 8, 642),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("sets")
    trees.write_refcoco(place / "got/refcoco", place)
    trees.write_grefcoco(place / "got/grefcoco", place)
    trees.write_grd(place / "got/grd")
    for name in ("refcoco", "grefcoco", "grd"):
        program(name).main(["--root", str(place), "--source", str(place / "got" / name)])
    register_referring_datasets(place)
    yield place
    register_referring_datasets(datasets_root())


@pytest.mark.parametrize(("name", "known"), PUBLISHED.items())
def test_records_equal_those_of_the_published_reader(
    root: Path, name: str, known: tuple[int, int, int]
) -> None:
    records = DatasetCatalog.get(name)
    expressions = [expression for record in records for expression in record["expressions"]]
    key = "sent_id" if name.startswith("grd") else "ref_id"
    pixels = sum(int(mask_util.area(runs)) for record in records for runs in target_rles(record))
    assert (len({one[key] for one in expressions}), len(expressions), pixels) == known
