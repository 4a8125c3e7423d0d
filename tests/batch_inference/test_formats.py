"""Formats of results, read back by the readers of other packages where they are installed."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from hipie.batch_inference import FORMAT_REGISTRY, RunFolder, find_inputs, run
from hipie.batch_inference.formats import build_formats
from hipie.batch_inference.formats.polygons import mask_to_polygon
from hipie.data.io.brush_rle import decode_brush, encode_brush
from hipie.errors import InputError
from hipie.segmentation import Segment, Segmentation
from tests.batch_inference import stub

HEIGHT, WIDTH = 60, 81
SIZE = (HEIGHT, WIDTH)


def disk(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


RING = disk(25, 30, 20) & ~disk(25, 30, 6)
SPLIT = disk(60, 15, 11) | disk(65, 45, 11)
PART = RING & (np.arange(WIDTH) < 20)
SEGMENTS = (
    Segment("dog", "thing", RING, 0.9, (Segment("head & <ears>", "part", PART, 0.5),)),
    Segment("dog", "thing", SPLIT, 0.8),
    Segment("grass", "stuff", ~RING & (np.arange(HEIGHT) > 30)[:, None], 0.7),
    Segment("größe 犬", "thing", np.zeros(SIZE, bool), 0.1),
)
NAMES = ("cat", "dog", "grass", "größe 犬")
VISIBLE = [RING, SPLIT, SEGMENTS[2].mask & ~SPLIT]


def segment(pixels: np.ndarray) -> Segmentation:
    """Segment an image, and nothing in black ones."""
    return Segmentation(pixels, SEGMENTS if pixels.any() else (), NAMES)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A run over two images in all formats."""
    root = tmp_path_factory.mktemp("formats")
    stub.write_image(root / "in/a/1.png", 9, SIZE)
    stub.write_image(root / "in/2.png", 0, SIZE)
    names = [name for name in FORMAT_REGISTRY if name != "jsonl"]
    with RunFolder(root / "out", stub.IDENTITY, settings=stub.SETTINGS) as folder:
        folder.add_class_names(dict.fromkeys(NAMES, "thing") | {"grass": "stuff"})
        inputs = find_inputs([str(root / "in")], recursive=True)
        assert run(inputs, folder, build_formats(names), segment).done == 2
    return root / "out"


def decode(rle) -> np.ndarray:
    return coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode()}).astype(bool)


def iou(first, second) -> float:
    return (first & second).sum() / (first | second).sum()


def test_coco_is_read_by_pycocotools(results):
    coco = COCO(results / "coco_instances.json")
    images = {Path(image["file_name"]).name: image for image in coco.imgs.values()}
    assert set(images) == {"1.png", "2.png"} and len(coco.imgs) == 2
    assert {category["name"] for category in coco.cats.values()} == {*NAMES, "head & <ears>"}
    assert not coco.getAnnIds(images["2.png"]["id"])
    annotations = coco.loadAnns(coco.getAnnIds(images["1.png"]["id"]))
    names = [coco.cats[annotation["category_id"]]["name"] for annotation in annotations]
    assert names == ["dog", "head & <ears>", "dog", "grass"]
    for annotation, mask in zip(annotations, [RING, PART, SPLIT, SEGMENTS[2].mask], strict=True):
        assert (coco.annToMask(annotation) == mask).all()
        assert annotation["area"] == mask.sum()
    assert annotations[1]["part_of"] == annotations[0]["id"]


def test_ids_of_a_coco_file_stay(in_tmp):
    images = [{"id": 70, "file_name": "b.png"}, {"id": 3, "file_name": "a.png"}]
    for image in images:
        stub.write_image(in_tmp / image["file_name"], 9, SIZE)
    (in_tmp / "images.json").write_text(json.dumps({"images": images}))
    with RunFolder("out", stub.IDENTITY) as folder:
        run(find_inputs(["images.json"]), folder, build_formats(["coco"]), segment)
    coco = COCO("out/coco_instances.json")
    assert {Path(i["file_name"]).name: i["id"] for i in coco.imgs.values()} == {
        "a.png": 3,
        "b.png": 70,
    }


def test_coco_panoptic_is_read_by_panopticapi(results):
    utilities = pytest.importorskip("panopticapi.utils", reason="panopticapi is not installed")
    content = json.loads((results / "coco_panoptic.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    things = {category["name"] for category in content["categories"] if category["isthing"]}
    assert "grass" not in things and "dog" in things
    by_file = {entry["file_name"]: entry for entry in content["annotations"]}
    assert set(by_file) == {"a/1.png", "2.png"} and by_file["2.png"]["segments_info"] == []
    ids = utilities.rgb2id(np.asarray(Image.open(results / "coco_panoptic/a/1.png")))
    infos = by_file["a/1.png"]["segments_info"]
    assert [names[info["category_id"]] for info in infos] == ["dog", "dog", "grass"]
    assert set(np.unique(ids)) - {0} == {info["id"] for info in infos}
    for info, mask in zip(infos, VISIBLE, strict=True):
        assert ((ids == info["id"]) == mask).all() and info["area"] == mask.sum()
        x, y, width, height = info["bbox"]
        assert (x, y, width, height) == cv2.boundingRect(mask.astype(np.uint8))


def test_label_maps_have_the_numbers_of_the_classes(results):
    names = (results / "label_maps/classes.txt").read_text(encoding="utf-8").splitlines()
    image = Image.open(results / "label_maps/a/1.png")
    assert image.mode == "P"
    labels = np.asarray(image)
    dog, grass = names.index("dog") + 1, names.index("grass") + 1
    assert ((labels == dog) == (RING | SPLIT)).all()
    assert ((labels == grass) == VISIBLE[2]).all()
    colours = np.asarray(image.convert("RGB"))
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 3
    assert not np.asarray(Image.open(results / "label_maps/2.png")).any()


def test_label_maps_of_many_classes_have_sixteen_bits(in_tmp):
    stub.write_image(in_tmp / "1.png", 9, SIZE)
    with RunFolder("out", stub.IDENTITY) as folder:
        folder.add_class_names({f"class {number}": "thing" for number in range(300)})
        run(find_inputs(["1.png"]), folder, build_formats(["label-map"]), segment)
    labels = np.asarray(Image.open("out/label_maps/1.png"))
    assert labels.max() > 300 and ((labels == labels[RING][0]) == (RING | SPLIT)).all()


def read_yolo(path: Path, to_pixels=np.floor) -> list[tuple[int, np.ndarray]]:
    """Fill the polygons of a file: supervision rounds coordinates, ultralytics cuts them off."""
    read = []
    for line in path.read_text().splitlines():
        number, *shares = line.split()
        points = to_pixels(np.array(shares, float).reshape(-1, 2) * (WIDTH, HEIGHT)).astype(int)
        mask = np.zeros(SIZE, np.uint8)
        cv2.fillPoly(mask, [points], 1)
        read.append((int(number), mask.astype(bool)))
    return read


@pytest.mark.parametrize("to_pixels", [np.floor, np.round])
def test_yolo_polygons_fill_to_the_masks(results, to_pixels):
    names = yaml.safe_load((results / "yolo/data.yaml").read_text(encoding="utf-8"))["names"]
    read = read_yolo(results / "yolo/labels/a/1.txt", to_pixels)
    assert [names[number] for number, _ in read] == ["dog", "head & <ears>", "dog", "grass"]
    for (_, mask), expected in zip(read, [RING, PART, SPLIT, SEGMENTS[2].mask], strict=True):
        assert iou(mask, expected) > 0.97
    assert (read[0][1] == RING).all()
    assert (results / "yolo/labels/2.txt").read_text() == ""


def test_yolo_is_read_by_supervision(results):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    dataset = supervision.DetectionDataset.from_yolo(
        str(results.parent / "in/a"),
        str(results / "yolo/labels/a"),
        str(results / "yolo/data.yaml"),
        force_masks=True,
    )
    ((_, _, detections),) = list(dataset)
    for mask, expected in zip(detections.mask, [RING, PART, SPLIT, SEGMENTS[2].mask], strict=True):
        assert iou(mask, expected) > 0.97


@pytest.mark.parametrize("seed", range(20))
def test_polygons_of_random_masks_fill_to_them(seed):
    """Up to the lines of one pixel between components, which have no other outline."""
    noise = np.random.default_rng(seed).random(SIZE)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    mask = smooth > np.quantile(smooth, 0.5)
    filled = np.zeros(SIZE, np.uint8)
    cv2.fillPoly(filled, [mask_to_polygon(mask).astype(np.int32)], 1)
    components = cv2.connectedComponents(mask.astype(np.uint8))[0] - 1
    assert not (mask & (filled == 0)).any()
    extra = int(((filled > 0) & ~mask).sum())
    assert extra <= (components - 1) * 25


def test_empty_and_tiny_masks_have_polygons():
    assert mask_to_polygon(np.zeros((4, 5), bool)).shape == (0, 2)
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    assert mask_to_polygon(mask).tolist() == [[2, 1]]


def labelme_masks(path: Path) -> list[tuple[str, int, np.ndarray]]:
    masks = []
    for shape in json.loads(path.read_text())["shapes"]:
        (x1, y1), (x2, y2) = shape["points"]
        crop = np.asarray(Image.open(io.BytesIO(base64.b64decode(shape["mask"]))))
        mask = np.zeros(SIZE, bool)
        mask[y1 : y2 + 1, x1 : x2 + 1] = crop > 0
        masks.append((shape["label"], shape["group_id"], mask))
    return masks


def test_labelme_files_have_the_masks(results):
    masks = labelme_masks(results / "labelme/a/1.json")
    assert [(label, group) for label, group, _ in masks] == [
        ("dog", 1),
        ("head & <ears>", 1),
        ("dog", 2),
        ("grass", 3),
    ]
    for (_, _, mask), expected in zip(masks, [RING, PART, SPLIT, SEGMENTS[2].mask], strict=True):
        assert (mask == expected).all()
    content = json.loads((results / "labelme/a/1.json").read_text())
    assert (results / "labelme/a" / content["imagePath"]).resolve().is_file()


def test_labelme_files_are_read_by_labelme(results):
    labelme = pytest.importorskip("labelme", reason="labelme is not installed")
    file = labelme.LabelFile(str(results / "labelme/a/1.json"))
    values, _ = labelme.utils.shapes_to_label(
        SIZE, [s for s in file.shapes if s["label"] == "dog"], {"dog": 1, "_background_": 0}
    )
    assert ((values == 1) == (RING | SPLIT)).all()


def test_cvat_masks_decode_to_the_masks(results):
    root = ElementTree.parse(results / "cvat_annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert [label.text for label in root.iterfind("meta/task/labels/label/name")] == [
        *NAMES,
        "head & <ears>",
    ]
    images = {Path(image.get("name")).name: image for image in root.iterfind("image")}
    assert set(images) == {"1.png", "2.png"} and not len(images["2.png"])
    expected = [RING, PART, SPLIT, SEGMENTS[2].mask]
    for element, mask in zip(images["1.png"], expected, strict=True):
        left, top, width, height = (
            int(element.get(key)) for key in ("left", "top", "width", "height")
        )
        runs = [int(run) for run in element.get("rle").split(",")]
        crop = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
        decoded = np.zeros(SIZE, bool)
        decoded[top : top + height, left : left + width] = crop
        assert (decoded == mask).all()


def test_cvat_is_read_by_datumaro(results):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    dataset = datumaro.Dataset.import_from(str(results / "cvat_annotations.xml"), "cvat")
    assert len(dataset) == 2
    labels = dataset.categories()[datumaro.AnnotationType.label]
    (item,) = (item for item in dataset if item.annotations)
    found = sorted(item.annotations, key=lambda annotation: annotation.z_order)
    assert [labels[one.label].name for one in found] == ["dog", "head & <ears>", "dog", "grass"]
    for one, expected in zip(found, [RING, PART, SPLIT, SEGMENTS[2].mask], strict=True):
        assert (np.asarray(one.image, bool) == expected).all()


def label_studio_results(results) -> dict[str, list[dict]]:
    tasks = json.loads((results / "label_studio.json").read_text())
    return {Path(task["data"]["image"]).name: task["predictions"][0]["result"] for task in tasks}


def test_label_studio_tasks_have_the_masks(results):
    by_image = label_studio_results(results)
    assert set(by_image) == {"1.png", "2.png"} and by_image["2.png"] == []
    found = by_image["1.png"]
    assert [one["value"]["brushlabels"] for one in found] == [
        ["dog"],
        ["head & <ears>"],
        ["dog"],
        ["grass"],
    ]
    assert found[1]["parentID"] == found[0]["id"] and "parentID" not in found[0]
    for one, expected in zip(found, [RING, PART, SPLIT, SEGMENTS[2].mask], strict=True):
        assert (one["original_height"], one["original_width"]) == SIZE
        assert (decode_brush(one["value"]["rle"], *SIZE) == expected).all()
    view = ElementTree.parse(results / "label_studio.xml").getroot()
    assert [label.get("value") for label in view.iterfind("BrushLabels/Label")] == [
        *NAMES,
        "head & <ears>",
    ]
    names = {view.find("Image").get("name"), view.find("BrushLabels").get("name")}
    assert {found[0]["to_name"], found[0]["from_name"]} == names


def test_label_studio_masks_are_decoded_by_its_converter(results):
    brush = pytest.importorskip(
        "label_studio_converter.brush", reason="label-studio-converter is not installed"
    )
    found = label_studio_results(results)["1.png"]
    for one, expected in zip(found, [RING, PART, SPLIT, SEGMENTS[2].mask], strict=True):
        channels = brush.decode_rle(one["value"]["rle"]).reshape(*SIZE, 4)
        assert (channels[..., 3] == expected * 255).all()
        theirs = brush.mask2rle(expected.astype(np.uint8) * 255)
        assert (decode_brush(theirs, *SIZE) == expected).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 3), (150, 301)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_brush_masks_decode_to_themselves(size, share):
    mask = np.random.default_rng(1).random(size) < share
    assert (decode_brush(encode_brush(mask), *size) == mask).all()


def test_brush_masks_may_have_runs_of_different_values():
    """Two pixels, of which the second one is half transparent, written value by value."""
    numbers = (8, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4), (0, 1), (0, 2), (7, 3)
    values = [(value, 8) for value in (9, 8, 7, 255, 6, 5, 4, 100)]
    bits = "".join(f"{number:0{width}b}" for number, width in (*numbers, *values))
    data = [int(bits[place : place + 8].ljust(8, "0"), 2) for place in range(0, len(bits), 8)]
    assert decode_brush(data, 1, 2).tolist() == [[True, False]]
    for broken, message in (
        (data[:-2], "ends before the last pixel"),
        ([], "not a list of integers"),
        ([300], "not in 0 to 255"),
        (encode_brush(np.ones((2, 2), bool)), "4 pixels, and an image of 2x1 2"),
    ):
        with pytest.raises(ValueError, match=message):
            decode_brush(broken, 1, 2)


def test_parquet_has_one_row_an_image(results):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = parquet.read_table(results / "segments.parquet")
    categories = json.loads(table.schema.metadata[b"hipie.categories"])
    names = {category["id"]: category["name"] for category in categories}
    assert set(names.values()) == {*NAMES, "head & <ears>"}
    rows = {Path(row["file_name"]).name: row for row in table.to_pylist()}
    assert set(rows) == {"1.png", "2.png"} and rows["2.png"]["segments"] == []
    assert (rows["1.png"]["height"], rows["1.png"]["width"]) == SIZE
    assert rows["1.png"]["frame"] is None
    found = rows["1.png"]["segments"]
    assert [names[one["category_id"]] for one in found] == [one["category"] for one in found]
    assert [one["category"] for one in found] == ["dog", "head & <ears>", "dog", "grass"]
    assert found[1]["part_of"] == found[0]["id"] and found[0]["part_of"] is None
    for one, expected in zip(found, [RING, PART, SPLIT, SEGMENTS[2].mask], strict=True):
        assert (decode(one["segmentation"]) == expected).all()
        assert one["area"] == expected.sum()
        assert tuple(one["bbox"]) == cv2.boundingRect(expected.astype(np.uint8))


def test_parquet_without_pyarrow_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(InputError, match=r"--format parquet needs pyarrow.*hipie\[parquet\]"):
        build_formats(["parquet"])


def test_results_of_a_run_that_goes_on_replace_the_files_of_the_run(results):
    before = {path: path.read_bytes() for path in results.iterdir() if path.is_file()}
    names = [name for name in FORMAT_REGISTRY if name != "jsonl"]
    with RunFolder(results, stub.IDENTITY, settings=stub.SETTINGS) as folder:
        inputs = find_inputs([str(results.parent / "in")], recursive=True)
        assert run(inputs, folder, build_formats(names), segment).skipped == 2
    after = {path: path.read_bytes() for path in results.iterdir() if path.is_file()}
    assert after.keys() == before.keys()
    for path in before:
        if path.suffix != ".parquet":
            assert before[path] == after[path]


def test_formats_that_are_named_later_need_no_model(results, in_tmp):
    """Each run writes what the folder lacks; names that XML cannot hold are replaced."""

    def odd(pixels):
        return Segmentation(pixels, [Segment("a\x08b", "thing", RING, 0.5)])

    stub.write_image(in_tmp / "1.png", 9, SIZE)
    for names, call in (
        (["json"], odd),
        (["cvat,yolo,labelme,coco,coco-panoptic,label-studio"], None),
    ):
        with RunFolder("out", stub.IDENTITY) as folder:
            summary = run(find_inputs(["1.png"]), folder, build_formats(names), call)
            assert summary.failed == 0
    root = ElementTree.parse("out/cvat_annotations.xml").getroot()
    assert root.find("image/mask").get("label") == "a\ufffdb"
    assert len(read_yolo(Path("out/yolo/labels/1.txt"))) == 1
    with RunFolder("out", stub.IDENTITY, overwrite=True) as folder:
        formats = build_formats(["yolo,coco-panoptic,cvat"])
        assert run(find_inputs(["1.png"]), folder, formats, odd, overwrite=True).done == 1
