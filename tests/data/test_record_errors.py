"""Fields and ids that records lack are errors about the data set and the image."""

from __future__ import annotations

import pickle

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from hipie.data.build import build_mapped_dataset
from hipie.data.io.validation import DatasetError
from hipie.data.record_errors import FIELDS, NamedMapper, record_errors
from hipie.errors import MissingFileError

RECORD = {"file_name": "images/1.png", "annotations": [{}]}


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_missing_field_is_named_with_the_data_set_and_the_image(field: str) -> None:
    with pytest.raises(DatasetError) as raised, record_errors("shelf_train", RECORD):
        {}[field]
    message = str(raised.value)
    assert message.startswith("images/1.png, an image of the data set shelf_train: ")
    assert f'"{field}"' in message


def test_undeclared_id_is_named() -> None:
    message = "the data set shelf_train: the id 80 is used and not"
    with pytest.raises(DatasetError, match=message), record_errors("shelf_train"):
        {1: 0}[80]


@pytest.mark.parametrize("error", [KeyError("thing_decoder"), KeyError(), RuntimeError("sizes")])
def test_other_errors_pass_with_a_note_for_the_log(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, record_errors("shelf_train", RECORD):
        raise error
    assert raised.value.__notes__ == ["(images/1.png, an image of the data set shelf_train)"]


def width_of(record: dict, *_: int) -> dict:
    return {"width": record["width"]}


def test_mapper_can_be_pickled() -> None:
    mapper = pickle.loads(pickle.dumps(NamedMapper(width_of, "shelf_train")))
    assert mapper({"width": 3}, 0) == {"width": 3}
    with pytest.raises(DatasetError, match=r'images/1.png.*"width"'):
        mapper(RECORD)


def test_loaders_name_the_data_set(tiny_cfg) -> None:
    name = "shelf_without_categories"
    DatasetCatalog.register(name, lambda: [RECORD | {"width": 8, "height": 8}])
    MetadataCatalog.get(name).set(thing_classes=["tin"])
    try:
        mapped = build_mapped_dataset(tiny_cfg, name, training=True)
        with pytest.raises(MissingFileError, match="images/1.png: ") as raised:
            mapped.mapper(mapped.records[0], 0)
        assert name in raised.value.__notes__[0]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
