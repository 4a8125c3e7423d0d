"""Readers of expressions on damaged files: one kind of error that names the file, nothing else."""

from __future__ import annotations

import json
import logging
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hipie.data.datasets import DatasetError, load_refcoco
from hipie.data.datasets.cosaliency import load_cosaliency
from hipie.data.datasets.grd import TABLES, load_grd
from hipie.data.datasets.uninext_refer import load_uninext_refer
from hipie.evaluation.metrics.expression_iou import target_rles
from tests import referring_trees as trees
from tests.data.datasets.mutations import changed_files

MUTANTS = 520


def as_json(content: Any) -> bytes:
    return json.dumps(content).encode()


def as_pickle(content: Any) -> bytes:
    return pickle.dumps(content, protocol=2)


def refs() -> list[dict]:
    return [
        trees.ref(1, 1, 10, "train", 1),
        trees.ref(2, 1, 11, "train", 2),
        {**trees.ref(3, 2, [20, 21], "train"), "source": "many"},
        trees.ref(4, 2, [-1], "train", 1),
    ]


def survive(path: Path, load: Callable[[], list[dict]], mutants: Any) -> tuple[int, int]:
    """Write each mutant, read it, and use what was read; returns how many were refused, taken."""
    refused = taken = 0
    for data in mutants:
        path.write_bytes(data)
        try:
            records = load()
        except DatasetError as error:
            message = str(error)
            assert path.parent.name in message and "\n" not in message.strip()
            assert any(other.name in message for other in path.parent.iterdir())
            refused += 1
            continue
        taken += 1
        for record in records:
            for runs in target_rles(record):
                assert runs["size"] == [record["height"], record["width"]]
            for expression in record["expressions"]:
                assert (
                    isinstance(expression["expression"], str) and expression["expression"].strip()
                )
    return refused, taken


@pytest.mark.parametrize("suffix", [".p", ".json"])
@pytest.mark.parametrize("broken", ["refs", "instances"])
def test_refcoco(tmp_path: Path, suffix: str, broken: str) -> None:
    refs_file, instances = tmp_path / f"refs{suffix}", tmp_path / "instances.json"
    write = as_json if suffix == ".json" else as_pickle
    whole = trees.instances([1, 2], 2)
    refs_file.write_bytes(write(refs()))
    instances.write_bytes(as_json(whole))
    if broken == "refs":
        mutants = changed_files(1, refs(), write, suffix == ".json", MUTANTS)
    else:
        mutants = changed_files(2, whole, as_json, True, MUTANTS)
    path = refs_file if broken == "refs" else instances
    refused, taken = survive(path, lambda: load_refcoco(refs_file, instances, "", "train"), mutants)
    assert refused > 150 and taken > 20


def test_refcoco_with_broken_refs_left_out(tmp_path: Path, caplog) -> None:
    refs_file, instances = tmp_path / "refs.p", tmp_path / "instances.json"
    instances.write_bytes(as_json(trees.instances([1, 2], 2)))
    mutants = changed_files(3, refs(), as_pickle, False, MUTANTS)

    def load() -> list[dict]:
        return load_refcoco(refs_file, instances, "", "train", skip_broken=True)

    strict, _ = survive(
        refs_file,
        lambda: load_refcoco(refs_file, instances, "", "train"),
        changed_files(3, refs(), as_pickle, False, MUTANTS),
    )
    with caplog.at_level(logging.WARNING):
        refused, _ = survive(refs_file, load, mutants)
    assert 0 < refused < strict - 100
    assert len(caplog.messages) > 100 and all("refs.p" in one for one in caplog.messages)


def test_uninext_refer(tmp_path: Path) -> None:
    content = trees.instances([1, 2], 1)
    for image in content["images"]:
        image["expressions"] = ["the thing", "it"]
    path = tmp_path / "instances_val.json"
    mutants = changed_files(4, content, as_json, True, MUTANTS)
    refused, taken = survive(path, lambda: load_uninext_refer(path, ""), mutants)
    assert refused > 150 and taken > 20


@pytest.mark.parametrize("name", TABLES)
def test_grd(tmp_path: Path, name: str) -> None:
    tables = trees.grd_tables()
    for other, table in tables.items():
        (tmp_path / f"{other}.pkl").write_bytes(pickle.dumps(table))
    mutants = changed_files(5, tables[name], pickle.dumps, False, MUTANTS)
    path = tmp_path / f"{name}.pkl"
    refused, taken = survive(
        path, lambda: load_grd(tmp_path, "", absence_expressions=True), mutants
    )
    assert refused > 100 and taken > 20


def test_cosaliency(tmp_path: Path) -> None:
    trees.write_cosod(tmp_path)
    root = tmp_path / "CoCA"
    (tmp_path / "CoCA/binary").rename(root / "gt")
    mask = next((root / "gt").rglob("*.png"))
    whole = mask.read_bytes()
    refused = 0
    for data in changed_files(6, {}, lambda _: whole, False, 3 * MUTANTS):
        mask.write_bytes(data)
        try:
            assert len(load_cosaliency(root)) == 4
        except DatasetError as error:
            assert str(mask) in str(error)
            refused += 1
    assert refused > 30


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"height": 10**9}, r'image 1: its "height" must be an integer from 1 to 65535'),
        ({"height": 60_000, "width": 60_000}, "make 3600000000 pixels"),
        ({"width": float("nan")}, 'its "width" must be an integer'),
        ({"width": 40.5}, 'its "width" must be an integer'),
        ({"file_name": 7}, 'its "file_name" must be a non-empty string'),
        ({"id": [1]}, 'its "id" must be an integer or a string'),
    ],
)
def test_images_that_cannot_be(tmp_path: Path, change: dict, words: str) -> None:
    content = trees.instances([1, 2], 1)
    content["images"][0].update(change)
    (tmp_path / "refs.json").write_bytes(as_json(refs()[:1]))
    (tmp_path / "instances.json").write_bytes(as_json(content))
    with pytest.raises(DatasetError, match=r"instances\.json: image .*" + words.split(": ")[-1]):
        load_refcoco(tmp_path / "refs.json", tmp_path / "instances.json", "", "train")


def runs(counts: Any, size: Any = (trees.HEIGHT, trees.WIDTH)) -> dict:
    return {"size": list(size), "counts": counts}


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([[1, 2, 3, 4]], "without three corners"),
        ([[1, 2, 3, 4, 5, 6, 7]], "without three corners"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not finite numbers"),
        ([[1, 2, 3, 4, 5, "x"]], "not a number: 'x'"),
        ([[1, 2, 3, 4, 5, 1e9]], "far outside its image"),
        ("abc", "neither polygons nor an RLE"),
        (runs("0", (5, 5)), 'has the "size"'),
        (runs([1200, -1, 1]), "not non-negative integers"),
        (runs([1, 2]), '"counts" of 3 pixels, but the image has 1200'),
        (runs("~~~"), "not a compressed RLE"),
        (runs("01é"), "not a compressed RLE"),
        (runs(7), 'has the "counts" 7'),
        (runs("o" * 40 + "0"), "not a compressed RLE"),
    ],
)
def test_masks_that_cannot_be(tmp_path: Path, segmentation: Any, words: str) -> None:
    content = trees.instances([1], 1)
    content["annotations"][0]["segmentation"] = segmentation
    (tmp_path / "refs.json").write_bytes(as_json(refs()[:1]))
    (tmp_path / "instances.json").write_bytes(as_json(content))
    with pytest.raises(DatasetError, match=f'annotation 10: its "segmentation" .*{words}'):
        load_refcoco(tmp_path / "refs.json", tmp_path / "instances.json", "", "train")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"\x80\x02]p2000000000\n.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\x00\x00abc.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\x00\x00]." + b"(" * 50,
    ],
)
def test_small_files_do_not_ask_for_much_memory(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "refs.p").write_bytes(data)
    (tmp_path / "instances.json").write_bytes(as_json(trees.instances([1], 1)))
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"refs\.p: this pickle is damaged or incomplete"):
        load_refcoco(tmp_path / "refs.p", tmp_path / "instances.json", "", "train")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_numbers_too_long_to_print(tmp_path: Path) -> None:
    bad = {**refs()[0], "ref_id": 10**5000}
    (tmp_path / "refs.p").write_bytes(as_pickle([bad]))
    (tmp_path / "instances.json").write_bytes(as_json(trees.instances([1], 1)))
    with pytest.raises(DatasetError, match="refs.p: .* it holds an integer of 2,077 bytes"):
        load_refcoco(tmp_path / "refs.p", tmp_path / "instances.json", "", "train")


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5_000, '{"a": "\udcff"}', "\x00"])
def test_odd_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "refs.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    (tmp_path / "instances.json").write_bytes(as_json(trees.instances([1], 1)))
    with pytest.raises(
        DatasetError, match=r"refs\.json: (this is not a JSON file|its lists .* nested)"
    ):
        load_refcoco(tmp_path / "refs.json", tmp_path / "instances.json", "", "train")
