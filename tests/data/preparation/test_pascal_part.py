"""Pascal-Part's MATLAB files: what is in them, and damaged ones."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from hipie.data.datasets import DatasetError
from hipie.data.datasets.panoptic_parts import decode_uids
from hipie.data.preparation.pascal_part import part_numbers, part_tables, read_pascal_part
from hipie.vocabularies.tables import load_classes
from tests.pascal_part_files import thing, write_annotation

SIZE = (20, 30)
MUTANTS = 520


def box(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[rows, columns] = True
    return mask


def a_dog_and_a_boat(path: Path) -> None:
    """A dog left with a head, and an eye on it; a boat right, over a part of the dog."""
    dog = thing(
        "dog",
        12,
        box(slice(0, 20), slice(0, 20)),
        {"head": box(slice(0, 10), slice(0, 10)), "reye": box(slice(2, 4), slice(2, 4))},
    )
    boat = thing("boat", 4, box(slice(10, 20), slice(15, 30)), {})
    write_annotation(path, [dog, boat])


def test_later_objects_and_parts_are_pasted_on_top(tmp_path: Path) -> None:
    path = tmp_path / "2008_000002.mat"
    a_dog_and_a_boat(path)
    labels = read_pascal_part(path)
    wanted = np.zeros(SIZE, dtype=np.int32)
    wanted[:, :20] = 12_001
    wanted[:10, :10] = 12_001_01
    wanted[2:4, 2:4] = 12_001_03
    wanted[10:, 15:] = 4_002
    assert labels.dtype == np.int32 and (labels == wanted).all()
    found = decode_uids(labels)
    assert set(found.classes.flat) == {0, 4, 12} and set(found.parts.flat) == {0, 1, 3}


def test_every_number_of_panoptic_parts_has_a_name() -> None:
    """Read from both tables: names of parts here, phrases of numbers there."""
    numbers = part_numbers()
    assert sorted(numbers) == list(range(1, 21))
    table = part_tables()["pano"]
    written = {100 * kind + number for kind, names in numbers.items() for number in names.values()}
    known = set(np.flatnonzero(table[:2100] > 0).tolist())
    assert written == {number for number in known if number > 100}
    assert {number for number in known if number <= 100} >= set(range(1, 21))


@pytest.mark.parametrize(
    ("kind", "name", "phrase", "merged"),
    [
        (1, "rwing", "aeroplane wing", "aeroplane wing"),
        (1, "engine_10", "aeroplane engine", "aeroplane engine"),
        (1, "wheel_1", "aeroplane wheel", "aeroplane wheel"),
        (2, "headlight_7", "bicycle headlight", "bicycle body"),
        (7, "window_20", "car window", "car window"),
        (12, "muzzle", "dog muzzle", "dog head"),
        (13, "lbho", "horse body", "horse torso"),
        (13, "tail", "horse tail", "horse tail"),
        (15, "rfoot", "person foot", "person lower leg"),
        (19, "coach_3", "train coach", "train body"),
        (20, "screen", "tvmonitor screen", "tvmonitor screen"),
    ],
)
def test_part_names_map_to_classes(kind: int, name: str, phrase: str, merged: str) -> None:
    number = 100 * kind + part_numbers()[kind][name]
    for table, words in (("pano", phrase), ("merged", merged)):
        names = load_classes(f"pascal_parts_{table}").vocabulary.names
        assert names[part_tables()[table][number] - 1] == words


def test_each_fault_is_named(tmp_path: Path) -> None:
    path = tmp_path / "2008_000003.mat"
    mask = box(slice(0, 5), slice(0, 5))
    faults = [
        ([thing("dog", 21, mask, {})], "object 1 has the class 21, which is not in 1 to 20"),
        (
            [thing("boat", 4, mask, {"sail": mask})],
            'object 1 of class 4 has the unknown part "sail"',
        ),
        (
            [thing("dog", 12, mask, {"head": mask[:4]})],
            r"a mask has the shape \(4, 30\), the first one",
        ),
        ([thing("dog", 12, mask.reshape(2, 10, 30), {})], "not an annotation of Pascal-Part"),
        ([], "has no object"),
    ]
    for objects, words in faults:
        write_annotation(path, objects)
        with pytest.raises(DatasetError, match=f"2008_000003.mat: .*{words}"):
            read_pascal_part(path)
    scipy.io.savemat(path, {"LabelMap": np.zeros((3, 3))})
    with pytest.raises(DatasetError, match="2008_000003.mat: this is not an annotation"):
        read_pascal_part(path)
    path.unlink()
    with pytest.raises(DatasetError, match=r"2008_000003\.mat"):
        read_pascal_part(path)


@pytest.mark.parametrize("compressed", [True, False])
def test_damaged_files_give_one_kind_of_error(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "2008_000004.mat"
    a_dog_and_a_boat(path)
    if not compressed:
        content = scipy.io.loadmat(path)
        scipy.io.savemat(path, {"anno": content["anno"]})
    whole, draw = path.read_bytes(), random.Random(5)
    refused = 0
    for _ in range(MUTANTS // 2):
        data = bytearray(whole)
        if draw.random() < 0.3:
            data = data[: draw.randrange(len(data))]
        for _ in range(draw.randint(1, 4)):
            if data:
                data[draw.randrange(len(data))] = draw.choice((0, 1, 127, 255, draw.randrange(256)))
        path.write_bytes(data)
        try:
            labels = read_pascal_part(path)
        except DatasetError as error:
            assert "2008_000004.mat" in str(error)
            refused += 1
        else:
            decode_uids(labels)
    assert refused > MUTANTS // 8
