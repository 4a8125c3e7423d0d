"""Every optional field of every format in every form in which people leave it out or write it.

Each example changes some fields of a correct file: the records stay the same, or, for a field that
is needed, there is one error that names the file, the field and its value.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hipie.data.datasets import (
    DatasetError,
    load_coco_instances,
    load_coco_panoptic,
    load_lvis,
    load_refcoco,
)
from hipie.data.datasets.grd import load_grd
from hipie.data.datasets.uninext_refer import load_uninext_refer

HEIGHT, WIDTH = 12, 16
MISSING = object()
PLACEHOLDERS = [MISSING, None, math.nan, "", " ", [], {}, [[]], [None], "null", "NaN"]
WRONG = ["x", 0.5, [1], {"a": 1}, math.inf, 10**30]
SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]
TRIANGLE = [1.5, 3.0, 11.5, 3.0, 6.5, 10.0]
RUNS = [24, 6, 6, 6, HEIGHT * WIDTH - 42]

MAY_BE_TEXT = ("file_name", "split", "raw_sent", "id", "image_id")
Content = Any
Field = tuple[Any, ...]


def whole(value: int) -> list[Any]:
    """Forms of a whole number."""
    return [value, float(value), str(value), f"{value}.0"]


def flag(value: int) -> list[Any]:
    """Forms of a flag."""
    return [value, float(value), str(value), bool(value)]


def absent_flag() -> list[Any]:
    """Forms of a flag that is 0."""
    return [*flag(0), *PLACEHOLDERS]


def no_box() -> list[Any]:
    """Ways of writing that there is no box."""
    return [*PLACEHOLDERS, [0, 0, 0, 0], [9, 9, -7, -7], [2, 2, 0, 5], [None] * 4, [math.nan] * 4]


def polygons(points: list[float]) -> list[Any]:
    """Forms of one polygon."""
    pairs = [list(pair) for pair in zip(points[0::2], points[1::2], strict=True)]
    texts = [str(value) for value in points]
    return [[points], points, [pairs], pairs, [texts], [[list(map(str, pair)) for pair in pairs]]]


def compressed() -> dict[str, Any]:
    """`RUNS`, compressed."""
    rle = mask_util.frPyObjects({"size": [HEIGHT, WIDTH], "counts": RUNS}, HEIGHT, WIDTH)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def runs() -> list[Any]:
    """Forms of an RLE; all but the last are one run-length encoding."""
    size = [HEIGHT, WIDTH]
    forms: list[Any] = [
        {"size": size, "counts": RUNS},
        {"size": [float(side) for side in size], "counts": [float(count) for count in RUNS]},
        {"size": list(map(str, size)), "counts": list(map(str, RUNS))},
    ]
    return forms


class Format(NamedTuple):
    """A format: its content, what writes and reads it, and the forms of its fields.

    `optional` have the same records in all forms; `needed` have an error in all placeholders.
    """

    content: Content
    write: Callable[[Path, Content], None]
    load: Callable[[Path], list[dict]]
    optional: dict[Field, list[Any]]
    needed: list[Field]


def images(*more: dict[str, Any]) -> list[dict[str, Any]]:
    size = {"height": HEIGHT, "width": WIDTH}
    return [
        {"id": number, "file_name": f"{number}.png", **size, **fields}
        for number, fields in enumerate(more or ({}, {}), 1)
    ]


def annotations() -> list[dict[str, Any]]:
    shapes = [
        {"segmentation": [SQUARE], "bbox": [2, 2, 6, 6], "area": 36},
        {"segmentation": [TRIANGLE], "bbox": [1.5, 3.0, 10.0, 7.0], "area": 30.0},
        {"segmentation": {"size": [HEIGHT, WIDTH], "counts": RUNS}, "bbox": [2, 0, 2, 6]},
    ]
    return [
        {"id": 10 + k, "image_id": 1, "category_id": 4, "iscrowd": 0, **shape}
        for k, shape in enumerate(shapes)
    ]


def object_forms(key: Any) -> dict[Field, list[Any]]:
    """Forms of the fields of `annotations`, below a key of the content."""
    forms: dict[Field, list[Any]] = {}
    for k in range(3):
        forms[key, k, "area"] = [36, -1, 0, "big", *PLACEHOLDERS, [1], math.inf]
        forms[key, k, "iscrowd"] = absent_flag()
        forms[key, k, "bbox"] = no_box()
        forms[key, k, "id"] = whole(10 + k)
        forms[key, k, "image_id"] = whole(1)
    forms[key, 0, "segmentation"] = polygons(SQUARE)
    forms[key, 1, "segmentation"] = polygons(TRIANGLE)
    forms[key, 2, "segmentation"] = runs()
    return forms


def image_forms() -> dict[Field, list[Any]]:
    forms: dict[Field, list[Any]] = {}
    for k in range(2):
        forms["images", k, "id"] = whole(k + 1)
        forms["images", k, "height"] = whole(HEIGHT)
        forms["images", k, "width"] = whole(WIDTH)
        forms["images", k, "file_name"] = [f"{k + 1}.png", f".\\{k + 1}.png", f"./{k + 1}.PNG"]
    return forms


IMAGE_FIELDS = [("images", 1, key) for key in ("id", "file_name", "height", "width")]
OBJECT_FIELDS = [("annotations", 0, key) for key in ("id", "image_id", "category_id")]


def write_json(folder: Path, content: Content) -> None:
    # A byte order mark is in front, as Windows writes it.
    (folder / "file.json").write_text(json.dumps(content), encoding="utf-8-sig")


def instances() -> Format:
    box = {"id": 20, "image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 4], "segmentation": []}
    content = {
        "images": images(),
        "annotations": [*annotations(), box],
        "categories": [{"id": 4, "name": "cup"}, {"id": 7, "name": "jug"}],
    }
    forms = object_forms("annotations") | image_forms()
    forms["annotations", 3, "segmentation"] = [*PLACEHOLDERS, {"size": [], "counts": ""}]
    forms["annotations", 3, "bbox"] = [[1, 2, 3, 4], ["1", "2", "3", "4"], [4, 6, -3, -4]]
    forms["annotations", 3, "category_id"] = whole(7)
    forms["categories", 1, "id"] = whole(7)
    return Format(
        content,
        write_json,
        lambda folder: load_coco_instances(folder / "file.json", folder),
        forms,
        [*IMAGE_FIELDS, *OBJECT_FIELDS, ("categories", 0, "id")],
    )


def lvis() -> Format:
    lists = {"neg_category_ids": [7], "not_exhaustive_category_ids": [4]}
    content = {"images": images({}, lists), "annotations": annotations()}
    forms = object_forms("annotations") | image_forms()
    forms["images", 0, "neg_category_ids"] = [x for x in PLACEHOLDERS if x != []]
    forms["images", 1, "neg_category_ids"] = [[7], [7.0], ["7"]]
    return Format(
        content,
        write_json,
        lambda folder: load_lvis(folder / "file.json", folder, {4: 0, 7: 1}),
        forms,
        [*IMAGE_FIELDS[:1], *IMAGE_FIELDS[2:], *OBJECT_FIELDS],
    )


def panoptic() -> Format:
    segments = [{"id": 300, "category_id": 4, "area": 96, "bbox": [0, 0, 8, 12], "iscrowd": 0}]
    segments.append({"id": 2, "category_id": 7, "area": 96, "bbox": [8, 0, 8, 12], "iscrowd": 0})
    content = {
        "images": images(),
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
        "categories": [{"id": 4, "isthing": 1}, {"id": 7, "isthing": 0}],
    }
    path = ("annotations", 0, "segments_info")
    forms = image_forms()
    for k, (number, category) in enumerate(((300, 4), (2, 7))):
        forms[*path, k, "id"] = whole(number)
        forms[*path, k, "category_id"] = whole(category)
        forms[*path, k, "iscrowd"] = absent_flag()
        forms[*path, k, "area"] = [96, 96.0, "96", -1, *PLACEHOLDERS]
        forms[*path, k, "bbox"] = no_box()
    forms["annotations", 0, "image_id"] = whole(1)
    forms["annotations", 0, "file_name"] = ["1.png", "1.PNG", *PLACEHOLDERS[:5]]
    forms["categories", 0, "isthing"] = [*flag(1), *PLACEHOLDERS]
    forms["categories", 1, "isthing"] = flag(0)
    return Format(
        content,
        write_json,
        lambda folder: load_coco_panoptic(
            folder / "file.json", folder / "maps", folder, {4: 0, 7: 1}
        ),
        forms,
        [*IMAGE_FIELDS, ("annotations", 0, "image_id"), (*path, 0, "id")],
    )


def refcoco(suffix: str) -> Format:
    expressions = [{"sent_id": 5, "raw": "The Cup", "sent": "the cup"}]
    ref = {"ref_id": 3, "image_id": 1, "split": "val", "sentences": expressions}
    content = {
        "refs": [{**ref, "ann_id": [10, 12]}, {**ref, "ref_id": 4, "ann_id": 11}],
        "images": images(),
        "annotations": annotations(),
    }
    forms = object_forms("annotations") | image_forms()
    forms["refs", 0, "ann_id"] = [[10, 12], [10.0, "12"]]
    forms["refs", 1, "ann_id"] = whole(11)
    forms["refs", 0, "ref_id"] = whole(3)
    forms["refs", 0, "image_id"] = whole(1)
    forms["refs", 0, "sentences", 0, "sent_id"] = whole(5)
    forms["refs", 0, "sentences", 0, "sent"] = PLACEHOLDERS
    forms["refs", 0, "category_id"] = PLACEHOLDERS
    forms["annotations", 0, "category_id"] = whole(4)

    def write(folder: Path, changed: Content) -> None:
        write_json(folder, {key: changed[key] for key in ("images", "annotations")})
        if suffix == ".json":
            (folder / "refs.json").write_text(json.dumps(changed["refs"]), encoding="utf-8-sig")
        else:
            (folder / "refs.p").write_bytes(pickle.dumps(changed["refs"], protocol=2))

    return Format(
        content,
        write,
        lambda folder: load_refcoco(folder / f"refs{suffix}", folder / "file.json", folder, "val"),
        forms,
        [
            *IMAGE_FIELDS,
            *OBJECT_FIELDS[:2],
            ("annotations", 0, "segmentation"),
            *[("refs", 0, key) for key in ("ref_id", "image_id", "split")],
        ],
    )


def uninext() -> Format:
    content = {
        "images": images(*[{"expressions": ["the cup", "it"]}] * 2),
        "annotations": [{**entry, "image_id": k} for k, entry in enumerate(annotations()[:2], 1)],
    }
    forms = image_forms()
    for field, values in object_forms("annotations").items():
        if field[1] < 2 and field[2] != "image_id":
            forms[field] = values
    return Format(
        content,
        write_json,
        lambda folder: load_uninext_refer(folder / "file.json", folder),
        forms,
        [*IMAGE_FIELDS, *OBJECT_FIELDS[:2], ("annotations", 0, "segmentation")],
    )


def grd() -> Format:
    entries = annotations()
    tables = {
        "images": {
            1: {"file_name": "1.png", "height": HEIGHT, "width": WIDTH, "anno_id": [10, 12]},
            2: {"file_name": "2.png", "height": HEIGHT, "width": WIDTH, "anno_id": []},
        },
        "annotations": {
            number: {"image_id": 1, "sent_id": [1], "segmentation": entries[k]["segmentation"]}
            for number, k in ((10, 0), (12, 2))
        },
        "sentences": {1: {"raw_sent": "the cup", "is_negative": 0}},
        "groups": {1: {"img_id": [1, 2], "inner_sent_id": [1], "group_name": "cups"}},
    }
    rle = compressed()
    tables["annotations"][12]["segmentation"] = rle
    size = [float(side) for side in rle["size"]]
    forms: dict[Field, list[Any]] = {
        ("images", 1, "height"): whole(HEIGHT),
        ("images", 1, "width"): [*whole(WIDTH), np.int64(WIDTH).item()],
        ("images", 1, "anno_id"): [[10, 12], [10.0, "12"], np.array([10, 12])],
        ("images", 2, "anno_id"): PLACEHOLDERS,
        ("annotations", 10, "sent_id"): [[1], [1.0], ["1"]],
        ("annotations", 10, "image_id"): whole(1),
        ("annotations", 10, "segmentation"): polygons(SQUARE),
        ("annotations", 12, "segmentation"): [rle, [rle], [{**rle, "size": size}], *runs()],
        ("annotations", 12, "bbox"): [*PLACEHOLDERS, np.zeros((1, 4))],
        ("sentences", 1, "is_negative"): absent_flag(),
        ("groups", 1, "inner_sent_id"): [[1], ["1"], [1.0]],
        ("groups", 1, "img_id"): [[1, 2], [1.0, "2"]],
    }

    def write(folder: Path, changed: Content) -> None:
        for name, table in changed.items():
            (folder / f"{name}.pkl").write_bytes(pickle.dumps(table))

    return Format(
        tables,
        write,
        lambda folder: load_grd(folder, folder, absence_expressions=True),
        forms,
        [
            *[("images", 1, key) for key in ("file_name", "height", "width")],
            *[("annotations", 10, key) for key in ("image_id", "segmentation")],
            ("sentences", 1, "raw_sent"),
        ],
    )


FORMATS = {
    "instances": instances(),
    "lvis": lvis(),
    "panoptic": panoptic(),
    "refs pickle": refcoco(".p"),
    "refs JSON": refcoco(".json"),
    "uninext": uninext(),
    "grd": grd(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images and the panoptic map."""
    place = tmp_path_factory.mktemp("forms")
    for name in ("1.png", "2.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(place / name)
    ids = np.full((HEIGHT, WIDTH), 300)
    ids[:, 8:] = 2
    (place / "maps").mkdir()
    colours = np.stack([ids % 256, ids // 256, ids * 0], axis=2).astype(np.uint8)
    Image.fromarray(colours).save(place / "maps" / "1.png")
    return place


def with_values(content: Content, values: dict[Field, Any]) -> Content:
    """A copy with some fields replaced or removed."""
    changed = copy.deepcopy(content)
    for field, value in values.items():
        parent = changed
        for key in field[:-1]:
            parent = parent[key]
        if value is MISSING:
            parent.pop(field[-1], None)
        else:
            parent[field[-1]] = copy.deepcopy(value)
    return changed


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def test_forms_of_fields_give_the_same_records(folder: Path, name: str, data: Any) -> None:
    form = FORMATS[name]
    form.write(folder, form.content)
    clean = form.load(folder)
    assert clean and any(
        record.get("annotations") or record.get("segments_info") for record in clean
    )
    values = data.draw(
        st.fixed_dictionaries(
            {}, optional={k: st.sampled_from(v) for k, v in form.optional.items()}
        )
    )
    form.write(folder, with_values(form.content, values))
    assert form.load(folder) == clean


@pytest.mark.parametrize("name", FORMATS)
def test_every_form_alone(folder: Path, name: str) -> None:
    form = FORMATS[name]
    form.write(folder, form.content)
    clean = form.load(folder)
    for field, values in form.optional.items():
        for value in values:
            form.write(folder, with_values(form.content, {field: value}))
            assert form.load(folder) == clean, (field, value)


def message_of(load: Callable[[], Any], case: Any) -> str:
    """Message of the error that a file ends in."""
    try:
        load()
    except DatasetError as error:
        return str(error)
    raise AssertionError(f"no error for {case}")


@pytest.mark.parametrize("name", FORMATS)
def test_needed_fields_are_named(folder: Path, name: str) -> None:
    form = FORMATS[name]
    for field in form.needed:
        for value in [*PLACEHOLDERS, *WRONG]:
            # Texts can be names, ids and expressions.
            if isinstance(value, str) and value.strip() and field[-1] in MAY_BE_TEXT:
                continue
            form.write(folder, with_values(form.content, {field: value}))
            message = message_of(lambda: form.load(folder), (field, value))
            assert f'"{field[-1]}"' in message, (field, value, message)
            assert folder.name in message and "\n" not in message
            assert "entries are wrong" not in message, (field, value, message)


@pytest.mark.parametrize("name", FORMATS)
@given(data=st.data())
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_optional_fields_with_wrong_values(folder: Path, name: str, data: Any) -> None:
    form = FORMATS[name]
    field = data.draw(st.sampled_from(sorted(form.optional, key=str)))
    value = data.draw(st.sampled_from(WRONG))
    form.write(folder, with_values(form.content, {field: value}))
    try:
        records = form.load(folder)
    except DatasetError as error:
        assert folder.name in str(error) and "\n" not in str(error)
        return
    assert records
