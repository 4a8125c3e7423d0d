"""Reordered vocabularies are mapped back; the true segments have full quality in any order."""

from __future__ import annotations

import json

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from benchmarks import name_order
from hipie.data.image_io import read_label_map


def test_first_order_is_the_identity_and_all_are_permutations():
    orders = name_order.orders(6, 5)
    assert orders[0] == list(range(6)) and len(orders) == 5
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5


def test_segments_get_the_category_ids_of_the_data_set():
    output = {"panoptic_seg": ("map", [{"id": 1, "category_id": 0}, {"id": 2, "category_id": 2}])}
    mapped = name_order.in_dataset_order(output, [2, 0, 1])["panoptic_seg"]
    assert mapped == ("map", [{"id": 1, "category_id": 2}, {"id": 2, "category_id": 1}])


def test_first_pages_are_registered_as_a_data_set(tiny_cfg, tmp_path):
    name = name_order.first_pages(name_order.DATASET, 2, tmp_path)
    records = DatasetCatalog.get(name)
    assert len(records) == 2
    annotation = json.loads((tmp_path / "panoptic.json").read_text())
    image_ids = {record["image_id"] for record in records}
    assert {entry["image_id"] for entry in annotation["annotations"]} == image_ids
    assert (
        MetadataCatalog.get(name).vocabulary == MetadataCatalog.get(name_order.DATASET).vocabulary
    )


class Oracle(torch.nn.Module):
    """Returns the annotated segments, with category ids in the order of the vocabulary."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.records = {record["image_id"]: record for record in DatasetCatalog.get(name)}
        self.vocabulary = MetadataCatalog.get(name).vocabulary

    def forward(self, inputs):
        record = self.records[inputs[0]["image_id"]]
        coded = read_label_map(record["pan_seg_file_name"]).astype("int64")
        if coded.ndim == 3:
            coded = coded @ [1, 256, 65536]
        names = list(inputs[0]["vocabulary"].names)
        segments = [
            {
                "id": info["id"],
                "isthing": info["isthing"],
                "category_id": names.index(self.vocabulary.names[info["category_id"]]),
            }
            for info in record["segments_info"]
        ]
        return [{"panoptic_seg": (torch.from_numpy(coded), segments)}]


def test_annotation_has_full_quality_in_any_order(tiny_cfg, tmp_path):
    name = name_order.first_pages(name_order.DATASET, 2, tmp_path)
    for order in name_order.orders(len(MetadataCatalog.get(name).vocabulary.classes), 2):
        quality = name_order.panoptic_quality(Oracle(name), tiny_cfg, name, order)
        assert abs(quality - 100) < 1e-6


def test_program_prints_the_range(tiny_program, capsys):
    results = name_order.main(["--pages", "2", "--orders", "2", *tiny_program])
    values = list(results["PQ"].values())
    assert len(values) == 2 and results["PQ-range"] == max(values) - min(values)
    assert "range over 2 orders" in capsys.readouterr().out
