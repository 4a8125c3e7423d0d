"""Annotation files of strangers: regular files, limited size and depth, names that stay inside."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from PIL import Image

from hipie import add_hipie_config
from hipie.data.broken_images import set_reading_rules
from hipie.data.datasets.coco_format import register_coco
from hipie.data.datasets.coco_instances import load_coco_instances
from hipie.data.datasets.coco_panoptic import load_coco_panoptic
from hipie.data.datasets.mask_files import load_mask_refs
from hipie.data.io.json_file import MAX_DEPTH, read_json
from hipie.data.io.matlab import read_matlab
from hipie.data.io.reading_rules import ReadingRules, read_by, rules_of
from hipie.data.io.safe_pickle import read_plain_pickle
from hipie.data.io.validation import DatasetError
from hipie.data.records import load_records
from hipie.errors import HipieError
from tests.limits import call_limited

READERS = [read_json, read_plain_pickle, read_matlab]


@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_read(tmp_path, monkeypatch, reader):
    os.mkfifo(tmp_path / "pipe.json")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # Names of sockets are short.
        server.bind("socket.json")
    for path in ("/dev/zero", tmp_path / "pipe.json", tmp_path / "socket.json"):
        outcome = call_limited(reader, Path(path), seconds=5)
        assert outcome == f"DatasetError: {path}: this is not a regular file"
    assert "this is a folder" in call_limited(reader, tmp_path, seconds=5)
    (tmp_path / "loop.json").symlink_to("loop.json")
    assert "there is no such" in call_limited(reader, tmp_path / "loop.json", seconds=5)


@pytest.mark.parametrize("reader", READERS)
def test_size_is_limited_before_a_file_is_read(tmp_path, reader):
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(2**40)  # A sparse file without bytes on the disk.
    outcome = call_limited(reader, tmp_path / "x.json", seconds=5)
    assert "1,099,511,627,776 bytes, and at most 8,589,934,592 are read" in outcome
    assert "DATASETS.MAX_ANNOTATION_BYTES" in outcome


def test_size_is_a_key_and_an_option_of_programs(tmp_path):
    (tmp_path / "x.json").write_text('{"images": []}')
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.DATASETS.MAX_ANNOTATION_BYTES = 13
    with read_by(rules_of(cfg)), pytest.raises(DatasetError, match="at most 13 are read"):
        read_json(tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") == {"images": []}
    from hipie.data.preparation.cli import run_in_place

    arguments = ["--root", str(tmp_path), "--max-annotation-bytes", "13"]

    def run(arguments):
        return run_in_place(
            arguments, "", [], lambda root, _: read_json(root / "x.json"), lambda *_: []
        )

    with pytest.raises(SystemExit, match=r"at most 13 are read.*--max-annotation-bytes"):
        run(arguments)
    assert run(arguments[:2]) == 0


def nested(depth, opening="[", closing="]"):
    return opening * depth + closing * depth


@pytest.mark.parametrize(
    "text",
    [
        nested(MAX_DEPTH + 1),
        nested(990),
        nested(200_000),
        "[" * 10**6,
        nested(MAX_DEPTH, '{"a":[', "]}"),
        '[1, "x", ' + nested(500) + ", 2]",
    ],
    ids=["one more", "below Python's limit", "deep", "open", "objects", "beside others"],
)
def test_nesting_is_limited(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    outcome = call_limited(read_json, tmp_path / "x.json")
    assert "x.json: its lists and objects are nested more than 100 deep" in outcome


def test_nesting_up_to_the_limit_is_read(tmp_path):
    (tmp_path / "x.json").write_text(nested(MAX_DEPTH) + " ")
    assert json.dumps(read_json(tmp_path / "x.json")) == nested(MAX_DEPTH)


OUTSIDE = ["/etc/passwd", "../x.png", "a/../../x.png", "a\\..\\..\\x.png", "C:/x.png", "C:x.png",
           "\\\\host\\share\\x.png", "\\x.png", "//host/x.png", ".."]  # fmt: skip


def write_coco(folder, name):
    Image.new("RGB", (8, 8)).save(folder / "x.png")
    (folder / "images").mkdir()
    (folder / "images/y").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "images/y/x.png")
    content = {
        "images": [{"id": 1, "file_name": name, "height": 8, "width": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4],
                         "segmentation": [[1, 1, 5, 1, 5, 5]], "iscrowd": 0, "area": 8}],
        "categories": [{"id": 1, "name": "box"}],
    }  # fmt: skip
    (folder / "x.json").write_text(json.dumps(content))
    return folder / "x.json", folder / "images"


@pytest.mark.parametrize("name", OUTSIDE)
def test_images_outside_their_folder_are_refused(tmp_path, name):
    with pytest.raises(DatasetError, match=r'x\.json: image 1: its "file_name" .* leaves'):
        load_coco_instances(*write_coco(tmp_path, name))


def test_an_end_of_text_is_no_file_name(tmp_path):
    with read_by(ReadingRules(outside_files=True)), pytest.raises(DatasetError, match="not a file"):
        load_coco_instances(*write_coco(tmp_path, "y/x.png\0.jpg"))


@pytest.mark.parametrize("name", ["y/x.png", "y\\x.png", "./y/x.png", "y//x.png"])
def test_names_inside_are_read(tmp_path, name):
    (record,) = load_coco_instances(*write_coco(tmp_path, name))
    assert os.path.samefile(record["file_name"], tmp_path / "images/y/x.png")


def test_a_key_allows_names_outside_and_links_are_the_users(tmp_path):
    json_file, images = write_coco(tmp_path, "../x.png")
    register_coco("test_outside", json_file, images)
    try:
        with pytest.raises(DatasetError, match=r"DATASETS\.ALLOW_OUTSIDE_FILES"):
            load_records("test_outside")
        cfg = get_cfg()
        add_hipie_config(cfg)
        cfg.DATASETS.ALLOW_OUTSIDE_FILES = True
        set_reading_rules("test_outside", rules_of(cfg))
        (record,) = load_records("test_outside")
        assert os.path.samefile(record["file_name"], tmp_path / "x.png")
    finally:
        DatasetCatalog.remove("test_outside")
    (images / "z.png").symlink_to(tmp_path / "x.png")
    content = json.loads(json_file.read_text())
    content["images"][0]["file_name"] = "z.png"
    json_file.write_text(json.dumps(content))
    assert len(load_coco_instances(json_file, images)) == 1


def test_records_of_an_own_function_may_be_anywhere(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    box = {"bbox": [1, 1, 4, 4], "bbox_mode": 1, "category_id": 0}
    record = {"file_name": str(tmp_path / "x.png"), "image_id": 1, "height": 8, "width": 8}
    record["annotations"] = [box]
    DatasetCatalog.register("test_own_records", lambda: [record])
    try:
        from detectron2.data import MetadataCatalog

        MetadataCatalog.get("test_own_records").set(thing_classes=["box"])
        assert load_records("test_own_records")[0]["file_name"] == str(tmp_path / "x.png")
    finally:
        DatasetCatalog.remove("test_own_records")


@pytest.mark.parametrize("name", OUTSIDE)
def test_panoptic_maps_outside_their_folder_are_refused(tmp_path, name):
    json_file, images = write_coco(tmp_path, "y/x.png")
    content = json.loads(json_file.read_text())
    content["annotations"] = [{"image_id": 1, "file_name": name, "segments_info": []}]
    json_file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r'annotation 0 of the list: its "file_name" .* leaves'):
        load_coco_panoptic(json_file, images, images, [])


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("key", ["image", "mask"])
def test_masks_and_images_of_expressions_outside_their_folder_are_refused(tmp_path, name, key):
    _, images = write_coco(tmp_path, "y/x.png")
    Image.new("L", (8, 8), 255).save(images / "m.png")
    entry = {"image": "y/x.png", "mask": "m.png", "class": "box", "sentences": ["a box"]}
    (tmp_path / "refs.json").write_text(json.dumps([{**entry, key: name}]))
    with pytest.raises(DatasetError, match=f'"{key}" .* leaves the folder'):
        load_mask_refs(tmp_path / "refs.json", images)


HOSTILE = "\x1b[2J\r\n\u202e\u2028\x9b31m"


def hostile_files(folder):
    """Annotation files of which one text each is hostile, with the function that reads it."""
    json_file, images = write_coco(folder, "y/x.png")
    content = json.loads(json_file.read_text())

    def with_field(part, key, value):
        changed = json.loads(json.dumps(content))
        changed[part][0][key] = value
        return changed

    for part, key in (("images", "file_name"), ("images", "id"), ("images", "height"),
                      ("annotations", "image_id"), ("annotations", "category_id"),
                      ("annotations", "segmentation"), ("annotations", "id"),
                      ("categories", "id")):  # fmt: skip
        yield with_field(part, key, f"a{HOSTILE}b"), images
    yield {**content, f"x{HOSTILE}": 1, "images": HOSTILE}, images
    yield with_field("images", "file_name", f"../{HOSTILE}" * 2000), images


def test_messages_about_hostile_files_are_printable(tmp_path):
    (tmp_path / "x").mkdir()
    folder = tmp_path / f"{HOSTILE[:4]}folder"
    folder.mkdir()
    count = 0
    for content, images in hostile_files(tmp_path / "x"):
        path = folder / "x.json"
        path.write_text(json.dumps(content))
        for reader in (load_coco_instances, load_mask_refs):
            try:
                reader(path, images)
            except HipieError as error:
                count += 1
                assert str(error).isprintable()
                assert len(str(error)) < 5000
    assert count >= 18
    named = b"cos\x1b[2J\nsys\x1b\x9btem\n."
    for pickled in (named, b"\x80\x04\x8c\x04os\x1b[\x8c\x03a\x1bb\x93."):
        (folder / "x.p").write_bytes(pickled)
        for arrays in (False, True):
            with pytest.raises(DatasetError) as caught:
                read_plain_pickle(folder / "x.p", arrays)
            assert str(caught.value).isprintable()
