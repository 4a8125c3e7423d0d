"""Positive and negative images of expressions, for every type of data set."""

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


def test_expressions_without_positive_image_are_left_out(tmp_path):
    tables = trees.grd_tables()
    tables["groups"][2]["inner_sent_id"] = [3]
    for number in (30, 31):
        del tables["annotations"][number]
    tables["images"][3]["anno_id"] = []
    write(tmp_path, tables)
    dataset = groups_from_grd(load_grd(tmp_path, "", absence_expressions=True))
    # Group 1 has one expression with two targets in its first image and one with a target in its
    # second; the remaining expression of group 2 has no target.
    expressions_by_id = {s["id"]: s["raw_sent"] for s in tables["sentences"].values()}
    assert [sample["expression"] for sample in dataset.samples] == [
        expressions_by_id[1],
        expressions_by_id[2],
    ]
    assert [sample["positives"] for sample in dataset.samples] == [[(0, [0, 1])], [(1, [0])]]
    assert [sample["negatives"] for sample in dataset.samples] == [[1], [0]]


@pytest.fixture
def expressions(tmp_path):
    """RefCOCO with categories {1, 2}, {1}, {2}, {} in images 1 to 4."""
    content = trees.instances([1, 2, 3, 4], 2)
    removed = {21, 30, 40, 41}  # object 10 * image + place is of category 1 + place
    content["annotations"] = [a for a in content["annotations"] if a["id"] not in removed]
    (tmp_path / "instances.json").write_text(json.dumps(content))
    refs = [trees.ref(1, 1, 10, "train", 1), trees.ref(2, 1, 11, "train", 2)]
    refs += [trees.ref(3, 2, 20, "train", 1), trees.ref(4, 3, 31, "train", 1)]
    import pickle

    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    file = tmp_path / "instances.json"
    return load_refcoco(tmp_path / "refs(unc).p", file, tmp_path, "train"), str(file)


def test_negatives_have_no_object_of_the_category(expressions):
    records, instances = expressions
    dataset = groups_from_expressions(records, instances)
    numbers = [record["image_id"] for record in records]
    assert sorted(numbers) == [1, 2, 3]
    assert len(dataset.samples) == 5
    negatives_by_category = {1: {3}, 2: {2}}  # of category 1, of category 2
    for sample in dataset.samples:
        ((image, annotations),) = sample["positives"]
        record = dataset.images[image]
        (kind,) = {record["annotations"][position]["category_id"] for position in annotations}
        negative_ids = {numbers[i] for i in dataset.negative_pools[sample["negatives"]]}
        category = 1 if kind == min(dataset.negative_pools) else 2
        assert negative_ids == negatives_by_category[category]
        assert (sample["height"], sample["width"]) == (record["height"], record["width"])


def test_groups_from_categories():
    def record(*categories):
        objects = [{"category_id": c} for c in categories]
        return {"height": 3, "width": 4, "annotations": objects}

    dataset = groups_from_categories([record(1, 0, 1), record(), record(0)], ["cat", "dog", "owl"])
    samples = [(sample["expression"], sample["positives"]) for sample in dataset.samples]
    assert samples == [("cat", [(0, [1]), (2, [0])]), ("dog", [(0, [0, 2])])]
    negatives_by_category = [
        dataset.negative_pools[sample["negatives"]].tolist() for sample in dataset.samples
    ]
    assert negatives_by_category == [[1], [1, 2]]


def test_groups_from_folders():
    def record(name):
        expressions = [{"expression": name.replace("_", " ")}]
        return {"height": 3, "width": 4, "group_name": name, "expressions": expressions}

    dataset = groups_from_folders([record(name) for name in ("alarm_clock", "alarm_clock", "bee")])
    assert [sample["expression"] for sample in dataset.samples] == ["alarm clock", "bee"]
    assert dataset.samples[0]["positives"] == [(0, []), (1, [])]
    pools = {name: pool.tolist() for name, pool in dataset.negative_pools.items()}
    assert pools == {"alarm_clock": [2], "bee": [0, 1]}


@pytest.mark.parametrize("kind", ["group", "cosaliency", "coco", "refer"])
def test_builder_is_chosen_by_the_evaluator_type(kind, expressions):
    records, instances = expressions
    grouped = [{**r, "group_id": 1, "group_name": "g"} for r in records]
    metadata = SimpleNamespace(
        get=lambda key: {"evaluator_type": kind, "instances_json": instances}.get(key),
        thing_classes=["first", "second", "third"],
    )
    built_expressions = {
        sample["expression"] for sample in build_group_dataset("set", grouped, metadata).samples
    }
    expected = {
        "group": {s["expression"] for r in records for s in r["expressions"]},
        "cosaliency": {records[0]["expressions"][0]["expression"]},
    }
    expected["refer"] = expected["group"]
    if kind == "coco":
        assert built_expressions <= set(metadata.thing_classes) and built_expressions
    else:
        assert built_expressions == expected[kind]


def test_unsupported_data_sets_raise_an_error_with_their_name():
    def metadata_of(kind):
        return SimpleNamespace(get={"evaluator_type": kind}.get, thing_classes=["cat"])

    with pytest.raises(
        ValueError, match=r'no groups can be built from the data set ade \("sem_seg"\)'
    ):
        build_group_dataset("ade", [], metadata_of("sem_seg"))
    with pytest.raises(ValueError, match="no groups can be built from the data set refs"):
        build_group_dataset("refs", [], metadata_of("refer"))  # without all objects of its images
    with pytest.raises(ValueError, match="no expression of the data set coco has an image"):
        build_group_dataset("coco", [], metadata_of("coco"))
