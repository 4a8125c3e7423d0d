"""Which images a command line names, and the names of their outputs."""

from __future__ import annotations

import json
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipie.batch_inference.inputs import (
    InputImage,
    InputVideo,
    OutputNames,
    find_inputs,
    is_one_image,
)
from hipie.errors import UsageError


def files(*names, root):
    """Create empty files below a folder."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(*arguments, **options):
    return [one.file for one in find_inputs(arguments, **options)]


def test_every_kind_of_argument_is_read(in_tmp):
    files("p/b.jpg", "p/a.PNG", "p/notes.txt", "p/.hidden.png", "p/q/c.webp", "v.mp4", root=in_tmp)
    files("r/1.png", "r/2.png", "odd[1].png", root=in_tmp)
    assert listed("p") == ["p/a.PNG", "p/b.jpg"]
    assert listed("p", recursive=True) == ["p/a.PNG", "p/b.jpg", "p/q/c.webp"]
    assert listed("r/*.png") == ["r/1.png", "r/2.png"]
    assert listed("**/*.png", recursive=True) == ["odd[1].png", "r/1.png", "r/2.png"]
    assert listed("odd[1].png", "missing.png") == ["odd[1].png", "missing.png"]
    assert find_inputs(["v.mp4"], every=3) == [InputVideo("v.mp4", 3)]
    (in_tmp / "list.txt").write_text("\ufeffr/2.png\n\np/*.jpg\r\nv.mp4\n", encoding="utf-8")
    assert listed("@list.txt") == ["r/2.png", "p/b.jpg", "v.mp4"]
    assert listed("r/1.png", "r", "./r/2.png") == ["r/1.png", "r/2.png"]


def test_images_of_a_coco_file_are_listed_with_their_ids(in_tmp):
    images = [{"id": 7, "file_name": "a/1.png"}, {"id": 3, "file_name": "2.png"}]
    files("coco/a/1.png", root=in_tmp)
    (in_tmp / "coco/c.json").write_text(json.dumps({"images": images}))
    assert find_inputs(["coco/c.json"]) == [
        InputImage("coco/a/1.png", image_id=7),
        InputImage("coco/2.png", image_id=3),
    ]
    assert listed("coco/c.json", image_root="other") == ["other/a/1.png", "other/2.png"]
    for name in ("/etc/x.png", "../x.png", "", None):
        (in_tmp / "coco/c.json").write_text(json.dumps({"images": [{"file_name": name}]}))
        with pytest.raises(ValueError, match="c.json"):
            find_inputs(["coco/c.json"])


def test_folders_without_an_image_are_wrong_usage(in_tmp):
    files("p/q/1.png", "empty/notes.txt", root=in_tmp)
    for argument in ("p", "empty", "*.jpg"):
        with pytest.raises(UsageError, match="there is no image and no video in"):
            find_inputs([argument])
    with pytest.raises(UsageError, match="--recursive"):
        find_inputs(["p"])
    (in_tmp / "list.txt").write_text("\n")
    with pytest.raises(UsageError, match="there is no image"):
        find_inputs(["@list.txt"])
    with pytest.raises(ValueError, match="nowhere.txt: there is no such list"):
        find_inputs(["@nowhere.txt"])
    with pytest.raises(ValueError, match="not a text file"):
        (in_tmp / "list.txt").write_bytes(b"a\0b")
        find_inputs(["@list.txt"])


def test_loops_of_links_end_and_every_folder_is_read_once(in_tmp):
    files("p/q/1.png", "p/2.png", root=in_tmp)
    os.symlink("..", in_tmp / "p/q/loop")
    os.symlink("self", in_tmp / "p/self")
    os.symlink(in_tmp / "p", in_tmp / "other")
    assert listed("p", recursive=True) == ["p/2.png", "p/q/1.png"]
    assert listed("other", recursive=True) == ["other/2.png", "other/q/1.png"]


def test_the_folder_of_results_is_not_read(in_tmp):
    files("p/1.png", "p/out/1.png", root=in_tmp)
    assert listed("p", recursive=True, exclude="p/out") == ["p/1.png"]
    assert listed("p/**/*.png", recursive=True, exclude="p/out") == ["p/1.png"]
    with pytest.raises(UsageError, match="the results would be written into the folder"):
        find_inputs(["p"], exclude="p")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("a.png", True), ("missing.jpg", True), ("p", False), ("*.png", False), ("@l", False)]
    + [("v.mp4", False), ("c.json", False)],
)
def test_one_image_is_told_from_many(in_tmp, argument, expected):
    files("a.png", "v.mp4", "c.json", "p/1.png", root=in_tmp)
    assert is_one_image([argument]) is expected
    assert not is_one_image([argument, argument])


def names_of(*paths, known=None, reserved=()):
    inputs = [InputVideo(path) if path.endswith(".mp4") else InputImage(path) for path in paths]
    names = OutputNames(inputs, known or {}, reserved)
    return [names[one] for one in inputs]


def test_outputs_mirror_the_tree_of_the_inputs():
    assert names_of("/d/a/1.png", "/d/b/1.png", "/d/b/c/2.jpg") == ["a/1", "b/1", "b/c/2"]
    assert names_of("/d/a/1.png") == ["1"]
    assert names_of("/d/1.png", "/d/1.jpg", "/d/1.JPG") == ["1", "1.jpg", "1.JPG_2"]
    assert names_of("/d/errors.png", reserved=["errors"]) == ["errors.png"]
    names = names_of("/d/Yolo/1.png", "/d/yolo_/1.png", "/d/1.png", reserved=["yolo"])
    assert names == ["Yolo_/1", "yolo_/1.png", "1"]


def test_names_of_earlier_runs_stay():
    assert names_of("/d/x/1.png", "/e/2.png", known={"/d/x/1.png": "1"}) == ["1", "e/2"]
    assert names_of("/d/1.jpg", "/d/1.png", known={"/d/1.png": "1"}) == ["1.jpg", "1"]


def test_folders_and_videos_take_names_too():
    assert names_of("/d/a.png", "/d/a.png.png", "/d/a.json/2.png") == [
        "a.png",
        "a.png.png",
        "a.json/2",
    ]
    names = names_of("/d/v.mp4", "/d/v/frame_000000.png", "/d/v.png")
    assert names[0] == "v.mp4" and names[1] == "v/frame_000000"


SEGMENT = st.text(st.sampled_from("aAé1.e\u0301 ß"), min_size=1, max_size=4).filter(
    lambda text: text.strip(".") and not text.startswith("/")
)
PATHS = st.lists(
    st.tuples(st.lists(SEGMENT, max_size=2), SEGMENT, st.sampled_from([".png", ".JSON", ""])),
    min_size=1,
    max_size=12,
)


@given(PATHS)
def test_no_two_outputs_share_a_file(paths):
    """Also on file systems that ignore case and the composition of letters."""
    sources = ["/".join(["/root", *folders, stem + suffix]) for folders, stem, suffix in paths]
    inputs = list({source: InputImage(source) for source in sources}.values())
    names = OutputNames(inputs, {})
    outputs = [names[one] + suffix for one in inputs for suffix in (".json", ".png")]
    folded = [
        unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        for name in outputs
    ]
    assert len(set(folded)) == len(folded)
    folders = {parent for name in folded for parent in parents(name)}
    assert not folders & set(folded)


def parents(name):
    parts = name.split("/")[:-1]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]
