"""Every format of results, converted to training sets and read back by pycocotools."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from hipie.batch_inference import FORMAT_REGISTRY, RunFolder, find_inputs, run
from hipie.batch_inference.formats import build_formats
from hipie.cli.main import main
from hipie.data.conversion import READERS, ReadOptions, read_annotations
from hipie.data.conversion.annotations import recognise
from hipie.data.datasets.coco_format import register_coco
from hipie.data.datasets.panoptic_format import register_coco_panoptic
from hipie.errors import InputError, UsageError
from hipie.segmentation import Segment, Segmentation
from tests.batch_inference import stub

SIZE = HEIGHT, WIDTH = 240, 321
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]


def disk(x: float, y: float, radius: float) -> np.ndarray:
    return (ROWS - y) ** 2 + (COLUMNS - x) ** 2 <= radius**2


RING = disk(100, 120, 80) & ~disk(100, 120, 24)
SPLIT = disk(250, 60, 44) | disk(265, 180, 44)
PART = RING & (COLUMNS < 80)
GRASS = ~RING & ~SPLIT & (ROWS > 120)
SEGMENTS = (
    Segment("dog", "thing", RING, 0.9, (Segment("head & <ears>", "part", PART, 0.5),)),
    Segment("dog", "thing", SPLIT, 0.8),
    Segment("größe 犬", "stuff", GRASS, 0.7),
)
NAMES = {"cat": "thing", "dog": "thing", "größe 犬": "stuff"}
FLAT = [
    ("dog", RING),
    ("head & <ears>", PART),
    ("dog", SPLIT),
    ("größe 犬", GRASS),
]
SOURCES = {
    "coco": "coco_instances.json",
    "coco-panoptic": "coco_panoptic.json",
    "cvat": "cvat_annotations.xml",
    "json": ".",
    "jsonl": "lines.jsonl",
    "label-map": "label_maps",
    "label-studio": "label_studio.json",
    "labelme": "labelme",
    "parquet": "segments.parquet",
    "yolo": "yolo",
}


def segment(pixels: np.ndarray) -> Segmentation:
    return Segmentation(pixels, SEGMENTS if pixels.any() else (), tuple(NAMES))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """A run over two images in all formats."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    root = tmp_path_factory.mktemp("conversion")
    stub.write_image(root / "in/a/1.png", 9, SIZE)
    stub.write_image(root / "in/2.png", 0, SIZE)
    out = root / "out"
    with RunFolder(out, stub.IDENTITY, settings=stub.SETTINGS) as folder:
        folder.add_class_names(NAMES)
        inputs = find_inputs([str(root / "in")], recursive=True)
        names = [name for name in FORMAT_REGISTRY if name not in ("jsonl", "overlay")]
        assert run(inputs, folder, build_formats(names), segment).done == 2
        lines = [{key: r.result[key] for key in ("image", "segments")} for r in folder.records()]
    (out / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def convert(results, name, output, *options) -> int:
    arguments = ["data", "convert", str(results / SOURCES[name]), "--output", str(output)]
    return main([*arguments, "--image-root", str(results.parent / "in"), *options])


def iou(first, second) -> float:
    return (first & second).sum() / (first | second).sum()


def test_every_format_of_files_has_a_reader():
    assert {*READERS} == {*FORMAT_REGISTRY} - {"overlay"} == {*SOURCES}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_results_are_training_sets_of_instances(results, in_tmp, name, capsys):
    assert recognise(results / SOURCES[name]) == name
    assert convert(results, name, "set") == 0
    assert "images: 2" in capsys.readouterr().out
    coco = COCO("set/instances.json")
    images = {image["file_name"]: image for image in coco.imgs.values()}
    assert set(images) == {"a/1.png", "2.png"}
    assert not coco.getAnnIds(images["2.png"]["id"])
    annotations = coco.loadAnns(coco.getAnnIds(images["a/1.png"]["id"]))
    found = [
        (coco.cats[annotation["category_id"]]["name"], coco.annToMask(annotation).astype(bool))
        for annotation in annotations
    ]
    if name == "label-map":
        expected = [("dog", RING | SPLIT), ("größe 犬", GRASS)]
    elif name == "coco-panoptic":
        expected = [entry for entry in FLAT if entry[0] != "head & <ears>"]
    else:
        expected = FLAT
    assert [label for label, _ in found] == [label for label, _ in expected]
    for (_, mask), (_, wanted) in zip(found, expected):
        assert (iou(mask, wanted) > 0.99) if name == "yolo" else (mask == wanted).all()
    parts = [annotation["part_of"] for annotation in annotations if "part_of" in annotation]
    has_parts = name not in ("yolo", "cvat", "label-map", "coco-panoptic")
    assert parts == [annotations[0]["id"]] * has_parts
    register_coco("converted", "set/instances.json", str(results.parent / "in"))
    records = DatasetCatalog.get("converted")
    assert sorted(len(record["annotations"]) for record in records) == [0, len(expected)]
    assert all(Path(record["file_name"]).is_file() for record in records)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_results_are_panoptic_training_sets(results, in_tmp, name):
    utilities = pytest.importorskip("panopticapi.utils", reason="panopticapi is not installed")
    assert convert(results, name, "set", "--to", "coco-panoptic", "--stuff", "größe 犬") == 0
    content = json.loads(Path("set/panoptic.json").read_text())
    kinds = {entry["name"]: entry["isthing"] for entry in content["categories"]}
    assert kinds["größe 犬"] == 0 and (name == "label-map" or kinds["dog"] == 1)
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    (number,) = (i["id"] for i in content["images"] if i["file_name"] == "a/1.png")
    (entry,) = (a for a in content["annotations"] if a["image_id"] == number)
    ids = utilities.rgb2id(np.asarray(Image.open(f"set/panoptic/{entry['file_name']}")))
    masks = [(names[info["category_id"]], ids == info["id"]) for info in entry["segments_info"]]
    flat = name in ("yolo", "cvat")
    wanted = {
        "dog": RING | SPLIT,
        "größe 犬": GRASS,
    }
    for label, expected in wanted.items():
        union = np.any([mask for other, mask in masks if other == label], axis=0)
        if label == "dog" and flat:
            union |= np.any([mask for other, mask in masks if other != "größe 犬"], axis=0)
        assert iou(union, expected) > 0.99 if name == "yolo" else (union == expected).all()
    register_coco_panoptic("panoptic", "set/panoptic.json", "set/panoptic", results.parent / "in")
    assert len(DatasetCatalog.get("panoptic")) == 2
    assert "größe 犬" in MetadataCatalog.get("panoptic").vocabulary.names


def test_options_choose_what_is_converted(results, in_tmp):
    for options, labels in (
        (["--kinds", "thing"], ["dog", "dog"]),
        (["--kinds", "part,stuff"], ["head & <ears>", "größe 犬"]),
        (["--min-score", "0.75"], ["dog", "dog"]),
        (["--stuff", "dog", "--kinds", "stuff"], ["dog", "dog", "größe 犬"]),
    ):
        assert convert(results, "coco", "set", *options) == 0
        coco = COCO("set/instances.json")
        assert [coco.cats[one["category_id"]]["name"] for one in coco.anns.values()] == labels
    for options, message in (
        (["--kinds", "things"], "kinds are thing, stuff, part, expression"),
        (["--min-score", "2"], "not in 0 to 1"),
        (["--image-root", "nowhere"], "there is no such folder"),
    ):
        with pytest.raises(SystemExit) as stop:
            convert(results, "coco", "set", *options)
        assert stop.value.code == 2, message
    Path("mine").mkdir()
    Path("mine/instances.json").write_text("{}")
    with pytest.raises(SystemExit):
        convert(results, "coco", "mine")
    assert Path("mine/instances.json").read_text() == "{}"


@pytest.mark.parametrize("name", sorted({*SOURCES} - {"yolo", "label-map"}))
def test_images_are_found_where_the_annotations_say(results, name):
    """Names outside of the folder are absolute here, and have .. in files of LabelMe."""
    source, inside = results / SOURCES[name], str(results.parent / "in")
    with pytest.raises(InputError, match="leaves the folder of the annotations; name the folder"):
        list(read_annotations(source).images)
    read = read_annotations(source, options=ReadOptions(outside_files=True))
    found = {str(Path(image.file).resolve()) for image in read.images}
    assert found == {f"{inside}/a/1.png", f"{inside}/2.png"}


def test_images_that_moved_are_found_by_the_ends_of_their_names(results, in_tmp):
    shutil.copytree(results.parent / "in", "moved")
    for name in ("coco_instances.json", "label_studio.json", "labelme"):
        read = read_annotations(results / name, options=ReadOptions("moved"))
        assert {image.file for image in read.images} == {"moved/a/1.png", "moved/2.png"}
    Path("moved/a/1.png").unlink()
    with pytest.raises(InputError, match="there is no such image; --image-root"):
        list(read_annotations(results / "labelme", options=ReadOptions("moved")).images)
    stub.write_image(in_tmp / "moved/a/1.png", 1, (HEIGHT, WIDTH + 1))
    command = ["data", "convert", str(results / "labelme"), "--output", "set"]
    with pytest.raises(SystemExit, match=r"1\.png: the image has 322x240 pixels, but its annot"):
        main([*command, "--image-root", "moved"])


def only_image(path, **options):
    (image,) = read_annotations(path, **options).images
    return image


SQUARE = [[2, 3], [12, 3], [12, 9], [2, 9]]


def test_shapes_that_people_draw_are_read(in_tmp):
    stub.write_image(in_tmp / "1.png", 0, (20, 30))
    flat = [value for point in SQUARE for value in point]
    shapes = [
        {"label": "polygon", "points": SQUARE, "shape_type": "polygon"},
        {"label": "box", "points": [SQUARE[2], SQUARE[0]], "shape_type": "rectangle"},
        {"label": "circle", "points": [[10, 10], [15, 10]], "shape_type": "circle"},
        {"label": "a line", "points": [[0, 0], [5, 5]], "shape_type": "line"},
    ]
    size = {"imageHeight": 20, "imageWidth": 30, "imagePath": "1.png"}
    Path("1.json").write_text(json.dumps(size | {"shapes": shapes}))
    polygon, box, circle = only_image("1.json").segments
    assert (polygon.mask == box.mask).all() and polygon.area == 60
    assert abs(circle.area - np.pi * 25) < 4
    results = [
        {"type": "polygonlabels", "value": {"points": [[x * 100 / 30, y * 5] for x, y in SQUARE]}},
        {
            "type": "rectanglelabels",
            "value": {"x": 200 / 30, "y": 15, "width": 1000 / 30, "height": 30},
        },
        {"type": "choices", "value": {"choices": ["good"]}},
    ]
    for result in results:
        result |= {"original_width": 30, "original_height": 20}
        result["value"][result["type"]] = ["dog"]
    task = {"data": {"image": "/data/upload/7/0a1b2c3d-1.png"}}
    annotation = {"result": results, "was_cancelled": False}
    cancelled = {"result": results[:1], "was_cancelled": True}
    Path("tasks.json").write_text(json.dumps([task | {"annotations": [cancelled, annotation]}]))
    for one in only_image("tasks.json").segments:
        assert one.label == "dog" and (one.mask == polygon.mask).all()
    points = ";".join(f"{x},{y}" for x, y in SQUARE)
    Path("1.xml").write_text(
        '<annotations><image name="1.png" width="30" height="20">'
        f'<polygon label="dog" points="{points}" z_order="1"/>'
        '<box label="cat" xtl="2" ytl="3" xbr="12" ybr="9" z_order="0"/>'
        "</image></annotations>"
    )
    first, second = only_image("1.xml").segments
    assert (first.label, second.label) == ("cat", "dog")
    assert (first.mask == polygon.mask).all() and (second.mask == polygon.mask).all()
    coco = {
        "images": [{"id": 5, "file_name": "1.png", "height": 20, "width": 30}],
        "categories": [{"id": 3, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 3, "segmentation": [flat], "iscrowd": 0}
        ],
    }
    Path("coco.json").write_text(json.dumps(coco))
    image = only_image("coco.json")
    assert image.image_id == 5 and (image.segments[0].mask == polygon.mask).all()
    Path("y/labels").mkdir(parents=True)
    Path("y/data.yaml").write_text("names: [cat, dog]\n")
    Path("y/labels/1.txt").write_text("1 0.25 0.3 0.3 0.2\n")
    (one,) = only_image("y", options=ReadOptions(".")).segments
    assert one.label == "dog" and one.box == (3, 4, 13, 9)


def broken(tmp, name, content):
    path = tmp / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


MASK = base64.b64encode(b"no png").decode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", "<annotations", "not an XML file"),
        ("a.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations/>", "DOCTYPE is not read"),
        ("a.xml", "<html/>", "not an XML file of CVAT"),
        (
            "a.xml",
            '<annotations><image name="1.png" width="30" height="20"><mask label="a" rle="1, 2" '
            'left="0" top="0" width="2" height="2"/></image></annotations>',
            "runs of a mask are not 2x2 pixels",
        ),
        (
            "a.xml",
            '<annotations><image name="1.png" width="30" height="20"><polygon label="a" '
            'points="1,2;3,x"/></image></annotations>',
            "a polygon has a value that is no number",
        ),
        ("a.jsonl", "{\n", "line 1 is no JSON"),
        ("a.jsonl", "[1]\n", "line 1 is not a result of hipie segment"),
        ("a.json", {"image": {}, "segments": []}, "names no image"),
        ("a.json", [{"data": {"text": "a"}}], "task 0 has no image"),
        ("a.json", {"shapes": [{}], "imageHeight": 2, "imageWidth": 3}, "shape 0 has no label"),
        ("a.json", {"shapes": [], "imageHeight": 0, "imageWidth": 3}, "numbers of pixels from 1"),
        (
            "a.json",
            {
                "shapes": [
                    {"label": "a", "shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": MASK}
                ],
                "imageHeight": 20,
                "imageWidth": 30,
            },
            "mask is not a PNG in base64",
        ),
        (
            "a.json",
            {"images": [], "annotations": [{"category_id": 7}], "categories": []},
            "annotation 0 has no category of the file",
        ),
        ("a.json", {"a": 1}, "the format is not recognised; name it with --format"),
        ("a.parquet", "no table", "not a Parquet file"),
        ("y/data.yaml", "names: 3", "no names of classes by number"),
    ],
)
def test_files_that_cannot_be_read_are_named(in_tmp, name, content, message):
    stub.write_image(in_tmp / "1.png", 0, (20, 30))
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = broken(in_tmp, name, content)
    source = path.parent if name == "y/data.yaml" else path
    with pytest.raises(InputError, match=message) as raised:
        list(read_annotations(source).images)
    assert str(source) in str(raised.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0 0 1 0 1 1", "2 is no class"),
        ("0 0 0 1 0 1", "neither a box nor a polygon"),
        ("0 0 0 1 0 1 x", "no number"),
        ("0 0 0 1 0 1 nan", "neither a box nor a polygon"),
    ],
)
def test_lines_of_yolo_that_cannot_be_read_are_named(in_tmp, line, message):
    stub.write_image(in_tmp / "y/images/1.png", 0, (20, 30))
    broken(in_tmp, "y/data.yaml", "names: [dog]")
    broken(in_tmp, "y/labels/1.txt", line)
    with pytest.raises(InputError, match=rf"1\.txt: line 1.*{message}"):
        list(read_annotations("y").images)


def test_label_files_need_one_image_of_their_name(in_tmp):
    broken(in_tmp, "y/data.yaml", "names: [dog]")
    for name in ("a", "a.png"):
        broken(in_tmp, f"y/labels/{name}.txt", "")
    for name in ("a.png", "a.jpg"):
        stub.write_image(in_tmp / f"y/images/{name}", 1)
    files = [Path(image.file).name for image in read_annotations("y").images]
    assert files == ["a.png", "a.jpg"]
    broken(in_tmp, "y/labels/b.txt", "")
    with pytest.raises(InputError, match="there is no image with its name"):
        list(read_annotations("y").images)
    for name in ("b.png", "b.jpg"):
        stub.write_image(in_tmp / f"y/images/{name}", 1)
    with pytest.raises(InputError, match="there are 2 images with its name"):
        list(read_annotations("y").images)


def test_frames_of_videos_are_refused(in_tmp):
    image = {"file": "v.mp4", "frame": 3, "width": 30, "height": 20}
    path = broken(in_tmp, "a.json", {"image": image, "segments": []})
    with pytest.raises(InputError, match=r"a frame of the video v\.mp4"):
        list(read_annotations(path).images)


def test_unknown_formats_are_named(in_tmp):
    path = broken(in_tmp, "a.json", {})
    with pytest.raises(UsageError, match="there is no format cocoa"):
        read_annotations(path, "cocoa")
    with pytest.raises(InputError, match="no such file or folder"):
        read_annotations("nowhere")


def test_masks_of_labelme_are_placed_in_the_image(in_tmp):
    stub.write_image(in_tmp / "1.png", 0, (20, 30))
    stream = io.BytesIO()
    Image.fromarray(np.full((3, 4), 255, np.uint8)).save(stream, "PNG")
    shape = {
        "label": "a",
        "shape_type": "mask",
        "mask": base64.b64encode(stream.getvalue()).decode(),
    }
    size = {"imageHeight": 20, "imageWidth": 30, "imagePath": "1.png"}
    path = broken(in_tmp, "1.json", size | {"shapes": [shape | {"points": [[5, 6], [8, 8]]}]})
    assert only_image(path).segments[0].box == (5, 6, 9, 9)
    broken(in_tmp, "1.json", size | {"shapes": [shape | {"points": [[28, 6], [31, 8]]}]})
    with pytest.raises(InputError, match="not inside the image"):
        only_image(path)
