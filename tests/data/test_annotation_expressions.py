"""Expressions made from annotations: their truth on drawn images, by the drawing's own numbers."""

from __future__ import annotations

import json
import re

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image, ImageDraw

from hipie.cli.data_expressions import main
from hipie.data.annotation_expressions import COLOURS, make_expressions, pixel_colours
from hipie.data.datasets.mask_files import load_mask_refs
from hipie.errors import InputError

# Several shades of a colour, as anybody would call them.
SHADES = {
    "red": ((220, 20, 20), (190, 10, 30)),
    "green": ((30, 160, 40), (60, 190, 60)),
    "blue": ((30, 60, 220), (20, 90, 180)),
    "yellow": ((240, 220, 20), (230, 205, 40)),
    "black": ((10, 10, 10), (25, 20, 25)),
    "white": ((245, 245, 245), (230, 235, 235)),
    "gray": ((120, 120, 120), (140, 140, 145)),
    "brown": ((110, 70, 30), (90, 50, 20)),
}
NAMES = ("box", "ball", "person", "kite")
WIDTH, HEIGHT = 320, 240
RANKS = {"second": 1, "third": 2, "fourth": 3}


def draw(seed: int, folder) -> tuple[dict, list[dict]]:
    """Draw up to seven shapes that do not overlap; the record, and what was drawn."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (WIDTH, HEIGHT), (70, 120, 190))
    shapes, annotations = [], []
    cells = rng.permutation(12)[: rng.integers(1, 8)]
    for number, cell in enumerate(cells):
        kind, colour = int(rng.integers(3)), str(rng.choice(list(SHADES)))
        side = int(rng.integers(12, 70))
        x = cell % 4 * 80 + int(rng.integers(0, 80 - side))
        y = cell // 4 * 80 + int(rng.integers(0, 80 - side))
        mask = Image.new("L", image.size)
        for target, ink in ((image, SHADES[colour][rng.integers(2)]), (mask, 1)):
            pencil = ImageDraw.Draw(target)
            shape = pencil.rectangle if kind == 0 else pencil.ellipse
            shape((x, y, x + side, y + side), fill=ink)
        pixels = np.asfortranarray(mask, dtype=np.uint8)
        rle = mask_util.encode(pixels)
        annotations.append({"segmentation": rle, "category_id": kind, "iscrowd": 0})
        shapes.append(
            {"name": NAMES[kind], "colour": colour, "x": x + side / 2, "y": y + side / 2}
            | {"area": int(pixels.sum()), "mask": pixels.astype(bool), "number": number}
        )
    path = folder / f"{seed}.png"
    image.save(path)
    record = {"file_name": str(path), "height": HEIGHT, "width": WIDTH, "image_id": seed}
    return record | {"annotations": annotations}, shapes


def true_objects(text: str, shapes: list[dict]) -> list[int]:
    """Read a sentence without the program's own descriptions: which of the shapes it is true of."""
    name = next(name for name in NAMES if re.search(rf"\b{name}\b", text))
    members = [shape for shape in shapes if shape["name"] == name]
    rest = re.sub(rf"\b(the|{name}|on|at|from|in)\b", "", text).split()
    by_x = sorted(members, key=lambda shape: shape["x"])
    by_y = sorted(members, key=lambda shape: shape["y"])
    by_area = sorted(members, key=lambda shape: shape["area"])
    orders = {"left": by_x, "right": by_x[::-1], "top": by_y, "bottom": by_y[::-1]}
    orders |= {f"{side}most": order for side, order in orders.items()}
    orders |= {"smallest": by_area, "largest": by_area[::-1], "biggest": by_area[::-1]}
    if not rest:
        found = members
    elif rest[0] in RANKS:
        found = orders[rest[1]][RANKS[rest[0]] : RANKS[rest[0]] + 1]
    elif rest[0] in orders:
        found = orders[rest[0]][:1]
    elif rest[0] == "middle":
        found = by_x[len(by_x) // 2 :][:1] if len(by_x) % 2 else []
    else:
        assert rest[0] in (*SHADES, "orange", "purple", "pink"), text
        found = [shape for shape in members if shape["colour"] == rest[0]]
    return [shape["number"] for shape in found]


@pytest.fixture
def metadata():
    return MetadataCatalog.get("drawn_shapes").set(thing_classes=list(NAMES))


def test_every_expression_is_true_of_its_object_only_or_of_none(metadata, tmp_path):
    kinds, targets, none = set(), 0, 0
    for seed in range(60):
        record, shapes = draw(seed, tmp_path)
        for entry, mask in make_expressions(record, metadata, max_expressions=12, none_share=0.3):
            for text in entry["sentences"]:
                found = true_objects(text, shapes)
                if mask is None:
                    assert found == [], (seed, text)
                    none += 1
                    continue
                assert len(found) == 1, (seed, text)
                assert np.array_equal(mask, shapes[found[0]]["mask"]), (seed, text)
                assert entry["class"] == shapes[found[0]]["name"]
                targets += 1
                kinds.add(" ".join(re.sub(r"\b(the|box|ball|person)\b", "", text).split()))
    assert targets > 150 and none > 50
    expected = {"", "leftmost", "on the right", "at the bottom", "smallest", "largest", "red"}
    expected = {" ".join(kind.replace("the", "").split()) for kind in expected}
    assert expected <= kinds and any("from" in kind for kind in kinds)
    assert any("middle" in kind for kind in kinds)


def test_colours_of_shades_and_none_for_people(metadata, tmp_path):
    for name, shades in SHADES.items():
        image = np.array([shades], np.uint8)
        assert {COLOURS[value] for value in pixel_colours(image).ravel()} == {name}
    texts = [
        text
        for seed in range(30)
        for entry, _ in make_expressions(draw(seed, tmp_path)[0], metadata, max_expressions=30)
        for text in entry["sentences"]
    ]
    assert not any(re.search(rf"\b{c} person", text) for c in SHADES for text in texts)
    assert any(re.search(rf"\b{c} ball", text) for c in SHADES for text in texts)


def test_close_positions_sizes_and_crowds_are_left_out(metadata, tmp_path):
    record, _ = draw(0, tmp_path)
    masks = []
    for x in (40, 44):  # four pixels apart, of the same size
        mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        mask[(20 if x == 40 else 160) :][:60, x : x + 60] = 1
        masks.append(mask_util.encode(mask))
    twins = [{"segmentation": m, "category_id": 0, "iscrowd": 0} for m in masks]

    def texts(annotations: list[dict]) -> set[str]:
        made = make_expressions(
            record | {"annotations": annotations}, metadata, max_expressions=40, none_share=0
        )
        return {text for entry, _ in made for text in entry["sentences"]}

    said = texts(twins)
    assert said and not any("left" in t or "right" in t or "est " in t for t in said)
    assert any("top" in text for text in said)
    crowd = {"segmentation": masks[1], "category_id": 0, "iscrowd": 1}
    assert texts([twins[0], crowd]) == set()
    made = make_expressions(record | {"annotations": [crowd]}, metadata, none_share=0)
    assert [(entry["class"], entry["sentences"]) for entry, _ in made] == [("box", [])]
    twice = [twins[0], dict(twins[0]), twins[1]]
    assert texts(twice) == set()


def test_program_writes_what_the_reader_of_refs_reads(tmp_path, capsys):
    folder, images, annotations = tmp_path / "images", [], []
    folder.mkdir()
    for seed in range(6):
        record, _ = draw(seed, folder)
        images.append({"id": seed, "file_name": f"{seed}.png", "width": WIDTH, "height": HEIGHT})
        for each in record["annotations"]:
            rle = each["segmentation"]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": seed, "iscrowd": 0}
                | {"category_id": each["category_id"] + 1, "area": int(mask_util.area(rle))}
                | {"bbox": mask_util.toBbox(rle).tolist()}
                | {"segmentation": {**rle, "counts": rle["counts"].decode()}}
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    arguments = [str(path), "--images", str(folder), "--none-share", "0.5"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*arguments, "--output", str(first)]) == 0
    assert "images: 6; expressions: " in capsys.readouterr().out
    records = load_mask_refs(first / "refs.json", folder)
    assert len(records) == 6
    read = [e for record in records for e in record["expressions"]]
    assert {len(e["targets"]) for e in read} == {0, 1}
    for record in records:
        _, shapes = draw(int(record["image_id"].removesuffix(".png")), folder)
        for entry in record["expressions"]:
            found = true_objects(entry["expression"], shapes)
            masks = [
                mask_util.decode(record["annotations"][t]["segmentation"]).astype(bool)
                for t in entry["targets"]
            ]
            expected = [shapes[number]["mask"] for number in found]
            assert len(masks) == len(expected) and all(map(np.array_equal, masks, expected))
    assert main([*arguments, "--output", str(second)]) == 0
    assert (first / "refs.json").read_text() == (second / "refs.json").read_text()
    with pytest.raises(SystemExit, match="is not an empty folder"):
        main([*arguments, "--output", str(second)])
    assert main([*arguments, "--seed", "1", "--output", str(tmp_path / "third")]) == 0
    assert (first / "refs.json").read_text() != (tmp_path / "third/refs.json").read_text()


def test_sets_without_exhaustive_annotations_are_refused(metadata, tmp_path):
    record, _ = draw(0, tmp_path)
    with pytest.raises(InputError, match="not all objects of this data set are annotated"):
        make_expressions(record | {"neg_category_ids": [1]}, metadata)
