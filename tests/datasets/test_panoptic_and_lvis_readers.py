"""What panopticapi and LVIS's own reader find in generated trees, and what this package's find."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import NoOpTransform
from PIL import Image

from hipie.data.dataset_mappers.annotations import decode_mask, panoptic_masks
from hipie.data.datasets import register_public_datasets
from hipie.data.image_io import read_label_map
from tests import benchmark_trees as trees
from tests.benchmark_trees import HEIGHT, WIDTH


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty tree under which everything is registered."""
    register_public_datasets(tmp_path)
    yield tmp_path
    register_public_datasets()


def write_lvis(root: Path) -> Path:
    """Three images with 0, 2 and 4 objects of all shapes, and lists of absent classes."""
    file, rng = root / "lvis/lvis_v1_val.json", np.random.default_rng(2)
    images, annotations = [], []
    for number in range(3):
        name = f"val2017/{number:012}.jpg"
        trees.write_image(root / "coco" / name)
        absent = sorted(rng.choice(np.arange(600, 1204), 5, replace=False).tolist())
        images.append(
            {
                "id": 100 - number,
                "coco_url": f"http://images.cocodataset.org/{name}",
                "height": HEIGHT,
                "width": WIDTH,
                "neg_category_ids": absent,
                "not_exhaustive_category_ids": absent[:1] if number else [],
            }
        )
        for _ in range(2 * number):
            corners = rng.integers(0, (WIDTH, HEIGHT), (5, 2)).astype(float)
            (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 - number,
                    "category_id": int(rng.integers(1, 600)),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "segmentation": [corners.reshape(-1).tolist(), trees.POLYGON],
                }
            )
    categories = [{"id": i, "name": f"{i}", "frequency": "f"} for i in range(1, 1204)]
    trees.write_json(file, {"images": images, "annotations": annotations, "categories": categories})
    return file


def test_lvis_records_equal_those_of_its_own_reader(root: Path) -> None:
    lvis = pytest.importorskip("lvis", reason="lvis is not installed")
    reference = lvis.LVIS(str(write_lvis(root)))
    own_records = {
        record["image_id"]: record for record in DatasetCatalog.get("lvis_v1_val_federated")
    }
    assert sorted(own_records) == sorted(reference.get_img_ids()) == [98, 99, 100]
    assert MetadataCatalog.get("lvis_v1_val_federated").thing_classes[1202] == "zucchini"
    counts = []
    for number, record in own_records.items():
        annotations = reference.load_anns(reference.get_ann_ids(img_ids=[number]))
        (image,) = reference.load_imgs([number])
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            assert [place + 1 for place in record[key]] == image[key]
        assert len(record["annotations"]) == len(annotations)
        for mine, other in zip(record["annotations"], annotations, strict=True):
            assert mine["category_id"] + 1 == other["category_id"]
            mask = decode_mask(mine["segmentation"], HEIGHT, WIDTH)
            assert (mask == reference.ann_to_mask(other)).all() and mask.any()
        counts.append(len(annotations))
    assert sorted(counts) == [0, 2, 4]


SETS = {
    "coco_2017_val_panoptic_with_sem_seg": (trees.coco, "coco/annotations/panoptic_val2017.json"),
    "ade20k_panoptic_val": (
        trees.ade20k,
        "ade/ADEChallengeData2016/ade20k_panoptic_val.json",
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_segments_equal_those_of_panopticapi(root: Path, name: str) -> None:
    evaluation = pytest.importorskip("panopticapi.evaluation", reason="panopticapi is missing")
    write, file = SETS[name]
    write(root)
    content = json.loads((root / file).read_text())
    records = DatasetCatalog.get(name)
    folder = str(Path(records[0]["pan_seg_file_name"]).parent)
    pairs = [(one, one) for one in content["annotations"]]
    categories = {one["id"]: one for one in content["categories"]}
    reference = evaluation.pq_compute_single_core(0, pairs, folder, folder, categories)
    found = {
        number: (one.tp, one.fp, one.fn) for number, one in reference.pq_per_cat.items() if one.tp
    }
    meta = MetadataCatalog.get(name)
    original = {
        place: number
        for table in (
            meta.thing_dataset_id_to_contiguous_id,
            meta.stuff_dataset_id_to_contiguous_id,
        )
        for number, place in table.items()
    }
    own_records: Counter[int] = Counter()
    for record in records:
        colours = read_label_map(record["pan_seg_file_name"])
        masks, classes = panoptic_masks(colours, record["segments_info"], NoOpTransform())
        own_records.update(original[place] for place in classes)
        with Image.open(record["pan_seg_file_name"]) as image:
            ids = evaluation.rgb2id(np.array(image, dtype=np.uint32))
        for mask, segment in zip(masks, record["segments_info"], strict=True):
            assert (mask == (ids == segment["id"])).all()
    assert found == {number: (count, 0, 0) for number, count in own_records.items()}
    assert len(found) == 2 and sum(own_records.values()) == 2 * len(records)
