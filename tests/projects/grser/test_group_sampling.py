"""Which images show what an expression says, for every kind of data set."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from grser.data.group_sampling import (
    build_group_dataset,
    groups_from_categories,
    groups_from_expressions,
    groups_from_folders,
    groups_from_grd,
)
from hipie.data.datasets.grd import load_grd
from hipie.data.datasets.refcoco import load_refcoco
from tests import referring_trees as trees
from tests.data.datasets.test_grd import write


def test_groups_ask_what_at_least_one_image_shows(tmp_path):
    tables = trees.grd_tables()
    tables["groups"][2]["inner_sent_id"] = [3]
    for number in (30, 31):
        del tables["annotations"][number]
    tables["images"][3]["anno_id"] = []
    write(tmp_path, tables)
    found = groups_from_grd(load_grd(tmp_path, "", absence_expressions=True))
    # Group 1 has an expression shown by its first image (twice) and one by its second; the only
    # expression that is left of group 2 is shown by none.
    said = {s["id"]: s["raw_sent"] for s in tables["sentences"].values()}
    assert [one["expression"] for one in found.samples] == [said[1], said[2]]
    assert [one["positives"] for one in found.samples] == [[(0, [0, 1])], [(1, [0])]]
    assert [one["negatives"] for one in found.samples] == [[1], [0]]


@pytest.fixture
def expressions(tmp_path):
    """RefCOCO: images 1 to 4 show categories {1, 2}, {1}, {2}, {}; refs of image 1 alone."""
    content = trees.instances([1, 2, 3, 4], 2)
    gone = {21, 30, 40, 41}  # object 10 * image + place is of category 1 + place
    content["annotations"] = [a for a in content["annotations"] if a["id"] not in gone]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    refs = [trees.ref(1, 1, 10, "train", 1), trees.ref(2, 1, 11, "train", 2)]
    refs += [trees.ref(3, 2, 20, "train", 1), trees.ref(4, 3, 31, "train", 1)]
    import pickle

    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    file = tmp_path / "instances.json"
    return load_refcoco(tmp_path / "refs(unc).p", file, tmp_path, "train"), str(file)


def test_a_negative_image_has_nothing_of_the_category(expressions):
    records, instances = expressions
    found = groups_from_expressions(records, instances)
    numbers = [record["image_id"] for record in records]
    assert sorted(numbers) == [1, 2, 3]
    assert len(found.samples) == 5
    lacking = {1: {3}, 2: {2}}  # of category 1, of category 2
    for one in found.samples:
        ((image, places),) = one["positives"]
        record = found.images[image]
        (kind,) = {record["annotations"][place]["category_id"] for place in places}
        absent = {numbers[i] for i in found.negative_pools[one["negatives"]]}
        assert absent == lacking[1 if kind == min(found.negative_pools) else 2]
        assert (one["height"], one["width"]) == (record["height"], record["width"])


def test_classes_of_a_vocabulary():
    def record(*categories):
        objects = [{"category_id": c} for c in categories]
        return {"height": 3, "width": 4, "annotations": objects}

    found = groups_from_categories([record(1, 0, 1), record(), record(0)], ["cat", "dog", "owl"])
    asked = [(one["expression"], one["positives"]) for one in found.samples]
    assert asked == [("cat", [(0, [1]), (2, [0])]), ("dog", [(0, [0, 2])])]
    lacking = [found.negative_pools[one["negatives"]].tolist() for one in found.samples]
    assert lacking == [[1], [1, 2]]


def test_folders_of_co_saliency():
    def record(name):
        said = [{"expression": name.replace("_", " ")}]
        return {"height": 3, "width": 4, "group_name": name, "expressions": said}

    found = groups_from_folders([record(name) for name in ("alarm_clock", "alarm_clock", "bee")])
    assert [one["expression"] for one in found.samples] == ["alarm clock", "bee"]
    assert found.samples[0]["positives"] == [(0, []), (1, [])]
    assert found.negative_pools["alarm_clock"].tolist() == [2] and found.negative_pools[
        "bee"
    ].tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["group", "cosaliency", "coco", "refer"])
def test_the_kind_of_a_data_set_decides(kind, expressions):
    records, instances = expressions
    named = [{**r, "group_id": 1, "group_name": "g"} for r in records]
    metadata = SimpleNamespace(
        get=lambda key: {"evaluator_type": kind, "instances_json": instances}.get(key),
        thing_classes=["first", "second", "third"],
    )
    asked = {one["expression"] for one in build_group_dataset("set", named, metadata).samples}
    wanted = {
        "group": {s["expression"] for r in records for s in r["expressions"]},
        "cosaliency": {records[0]["expressions"][0]["expression"]},
    }
    wanted["refer"] = wanted["group"]
    if kind == "coco":
        assert asked <= set(metadata.thing_classes) and asked
    else:
        assert asked == wanted[kind]


def test_data_sets_that_ask_nothing_are_named():
    def nothing(kind):
        return SimpleNamespace(get={"evaluator_type": kind}.get, thing_classes=["cat"])

    with pytest.raises(
        ValueError, match=r'no groups can be built from the data set ade \("sem_seg"\)'
    ):
        build_group_dataset("ade", [], nothing("sem_seg"))
    with pytest.raises(ValueError, match="no groups can be built from the data set refs"):
        build_group_dataset("refs", [], nothing("refer"))  # without all objects of its images
    with pytest.raises(ValueError, match="no expression of the data set coco has an image"):
        build_group_dataset("coco", [], nothing("coco"))
