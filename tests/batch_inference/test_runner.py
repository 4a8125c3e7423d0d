"""Runs over many images: resuming, errors, refusals, and processes that are killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from pathlib import Path
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image

from hipie.batch_inference import RunFolder, find_inputs, run
from hipie.batch_inference.formats import build_formats
from hipie.batch_inference.recorder import BatchSegment
from hipie.batch_inference.run_folder import STATE
from hipie.data.image_io import ImageError
from hipie.errors import InputError, UnexpectedError, UsageError
from hipie.read_ahead import predict_in_order
from hipie.result_files import is_result_file
from tests.batch_inference.stub import IDENTITY, SETTINGS, segment, write_image


def run_on(output, *arguments, formats=("json",), call=segment, identity=IDENTITY, **options):
    """Run over inputs, and return (done, skipped, failed)."""
    listing = {name: options.pop(name) for name in ("recursive", "every") if name in options}
    inputs = find_inputs(arguments, exclude=str(output), **listing)
    overwrite = options.get("overwrite", False)
    with RunFolder(output, identity, settings=SETTINGS, overwrite=overwrite) as folder:
        summary = run(inputs, folder, build_formats(formats), call, **options)
    return summary.done, summary.skipped, summary.failed


def errors_of(output):
    path = Path(output) / "errors.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def refuse(pixels):
    raise AssertionError("an image was segmented again")


def tree(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_folder_is_segmented_and_then_skipped(in_tmp):
    for number in range(3):
        write_image(in_tmp / f"photos/{'ab'[number % 2]}/{number}.png", number)
    assert run_on("out", "photos", formats=("json,overlay",), recursive=True) == (3, 0, 0)
    names = {"a/0", "a/2", "b/1"}
    written = {name for name in tree(in_tmp / "out") if not name.startswith(STATE)}
    assert written == {f"{name}.{suffix}" for name in names for suffix in ("json", "png")}
    content = json.loads((in_tmp / "out/a/0.json").read_text())
    expected = segment(np.zeros((20, 30, 3), np.uint8)).to_dict()
    assert content["segments"] == expected["segments"]
    assert content["image"] == {"file": "photos/a/0.png", "width": 30, "height": 20}
    assert content["settings"] == SETTINGS
    assert all(is_result_file(in_tmp / "out" / name) for name in written)
    before = tree(in_tmp / "out")
    assert run_on("out", "photos", recursive=True, call=refuse) == (0, 3, 0)
    assert tree(in_tmp / "out") == before


def test_files_that_are_missing_are_written_without_the_model(in_tmp):
    write_image(in_tmp / "p/1.png", 1)
    run_on("out", "p", formats=("json", "overlay"))
    before = tree(in_tmp / "out")
    (in_tmp / "out/1.json").unlink()
    (in_tmp / "out/1.png").unlink()
    assert run_on("out", "p", formats=("json", "overlay"), call=refuse) == (0, 1, 0)
    assert tree(in_tmp / "out") == before


def batched(sizes, call=segment):
    """A call on up to three images in a row of one size, which records how many it was given."""
    return BatchSegment(
        lambda images, on_error: predict_in_order(
            images,
            lambda image: image,
            call,
            on_error,
            batch=3,
            batch_key=np.shape,
            prepare_batch=lambda together: sizes.append(len(together)),
        )
    )


def test_batches_give_the_files_and_errors_of_single_images(in_tmp):
    """With broken images, images that fail, and images that an earlier run has segmented."""
    for number in range(9):
        write_image(in_tmp / f"p/{number}.png", number)
    (in_tmp / "p/4a.png").write_text("no image")

    def call(pixels):
        if pixels[0, 0, 0] == 6:
            raise UnexpectedError("a bug")
        return segment(pixels)

    sizes = []
    for output, used in (("one", call), ("batch", batched(sizes, call))):
        assert run_on(output, "p/0.png", "p/3.png", call=used) == (2, 0, 0)
        sizes.clear()
        assert run_on(output, "p", call=used, formats=("json", "coco")) == (6, 2, 2)
    assert sizes == [3, 3]
    assert [Path(one["file"]).name for one in errors_of("one")] == ["4a.png", "6.png"]
    assert tree(in_tmp / "one").keys() == tree(in_tmp / "batch").keys()
    for name, content in tree(in_tmp / "one").items():
        if not name.startswith(STATE):
            assert content == (in_tmp / "batch" / name).read_bytes(), name


def test_a_batch_ends_the_run_with_an_error_that_every_image_has(in_tmp):
    for number in range(3):
        write_image(in_tmp / f"p/{number}.png", number)

    def call(pixels):
        raise InputError("no such class") if pixels[0, 0, 0] == 1 else UnexpectedError("a bug")

    with pytest.raises(InputError, match="no such class"):
        run_on("out", "p", call=batched([], call))
    assert [one["file"] for one in errors_of("out")] == ["p/0.png"]


def test_a_changed_image_is_segmented_again(in_tmp):
    path = write_image(in_tmp / "p/1.png", 1)
    run_on("out", "p")
    write_image(path, 1, (24, 30))
    assert run_on("out", "p") == (1, 0, 0)
    assert json.loads((in_tmp / "out/1.json").read_text())["image"]["height"] == 24


def test_broken_images_are_listed_and_tried_again(in_tmp):
    write_image(in_tmp / "p/1.png", 1)
    (in_tmp / "p/letter.jpg").write_text("Dear reader")
    content = write_image(in_tmp / "whole.png", 9, (300, 300)).read_bytes()
    (in_tmp / "p/cut.png").write_bytes(content[: len(content) // 2])
    (in_tmp / "p/empty.png").touch()
    os.mkfifo(in_tmp / "p/pipe.png")
    assert run_on("out", "p", "nowhere.png") == (1, 0, 5)
    names = ["p/cut.png", "p/empty.png", "p/letter.jpg", "p/pipe.png", "nowhere.png"]
    assert [entry["file"] for entry in errors_of("out")] == names
    assert all(entry["file"] in entry["error"] for entry in errors_of("out"))
    write_image(in_tmp / "p/cut.png", 2)
    assert run_on("out", "p", "nowhere.png") == (1, 1, 4)
    assert [entry["file"] for entry in errors_of("out")] == names[1:]
    for name in ("p/empty.png", "p/letter.jpg", "p/pipe.png"):
        os.remove(name)
    write_image(in_tmp / "nowhere.png")
    assert run_on("out", "p", "nowhere.png") == (1, 2, 0)
    assert not (in_tmp / "out/errors.jsonl").exists()


def test_strict_runs_stop_at_the_first_failure(in_tmp):
    for name in ("1", "3"):
        write_image(in_tmp / f"p/{name}.png")
    (in_tmp / "p/2.png").write_text("Dear reader")
    with pytest.raises(InputError, match="p/2.png"):
        run_on("out", "p", strict=True)
    assert (in_tmp / "out/1.json").exists() and not (in_tmp / "out/3.json").exists()
    assert [entry["file"] for entry in errors_of("out")] == ["p/2.png"]


def test_errors_of_one_image_do_not_end_a_run_and_those_of_all_do(in_tmp):
    for number in range(30):
        write_image(in_tmp / f"p/{number:02}.png", number)

    def fail_for_some(pixels):
        if pixels[0, 0, 0] == 1:
            raise ImageError("odd")
        if pixels[0, 0, 0] == 2:
            raise MemoryError
        return segment(pixels)

    assert run_on("out", "p", call=fail_for_some) == (28, 0, 2)

    def unusable_names(pixels):
        raise InputError('"?!" is no class name')

    with pytest.raises(InputError, match="no class name"):
        run_on("other", "p", call=unusable_names)
    assert not errors_of("other")

    def bug(pixels):
        raise UnexpectedError("this is a bug")

    with pytest.raises(UnexpectedError):
        run_on("third", "p", call=bug)
    assert len(errors_of("third")) < 30


def test_two_inputs_with_one_stem_have_their_own_files(in_tmp):
    for value, name in enumerate(("a/1.png", "b/1.png", "b/1.jpg", "b/1.webp")):
        write_image(in_tmp / name, value, (20 + value, 30))
    assert run_on("out", "a", "b/*") == (4, 0, 0)
    results = [json.loads(path.read_text()) for path in (in_tmp / "out").rglob("*.json")]
    heights = {r["image"]["file"]: r["image"]["height"] for r in results if "segments" in r}
    assert heights == {"a/1.png": 20, "b/1.png": 21, "b/1.jpg": 22, "b/1.webp": 23}


@pytest.mark.parametrize("name", ["größe 犬", "a\u0301", "\u202egnp", "line\nbreak", "🐕 [x]"])
def test_paths_have_any_character(in_tmp, name):
    write_image(in_tmp / f"in {name}/{name}.png")
    (in_tmp / f"in {name}/{name}.jpg").write_text("no image")
    assert run_on(f"out {name}", f"in {name}", formats=("json,overlay",)) == (1, 0, 1)
    assert (in_tmp / f"out {name}/{name}.png.json").exists()
    assert errors_of(f"out {name}")[0]["file"] == f"in {name}/{name}.jpg"


def test_names_that_are_not_utf8_are_read(in_tmp):
    os.mkdir(b"in")
    write_image(in_tmp / "x.png")
    os.rename(b"x.png", b"in/\xff.png")
    assert run_on("out", "in") == (1, 0, 0)
    assert run_on("out", "in", call=refuse) == (0, 1, 0)


@pytest.mark.parametrize("name", [b"\xff", "größe 犬 & <a>".encode(), b"line\nbreak", b"'[*]?\""])
def test_every_format_takes_names_of_any_character(in_tmp, name):
    """Names that are not UTF-8, too; each file of the whole run is readable."""
    os.mkdir(b"in " + name)
    write_image(in_tmp / "x.png")
    os.rename(b"x.png", b"in " + name + b"/" + name + b".png")
    formats = [one for one in _known() if one != "jsonl"]
    folder = os.fsdecode(b"in " + name)
    assert run_on("out", folder, formats=formats) == (1, 0, 0)
    assert run_on("out", folder, call=refuse, formats=formats) == (0, 1, 0)
    (image,) = json.loads(Path("out/coco_instances.json").read_text())["images"]
    assert os.fsencode(image["file_name"]) == b"in " + name + b"/" + name + b".png"
    ElementTree.parse("out/cvat_annotations.xml")
    (task,) = json.loads(Path("out/label_studio.json").read_text())
    path = unquote_to_bytes(task["data"]["image"].partition("?d=")[2])
    assert os.path.samefile(b"/" + path, os.fsencode(image["file_name"]))


def test_results_of_other_settings_are_refused_by_name(in_tmp):
    write_image(in_tmp / "p/1.png")
    run_on("out", "p")
    before = tree(in_tmp / "out")
    for changed, message in (
        ({"things": ["cat"]}, r'another things: \["dog"\], and now it is \["cat"\]'),
        ({"config": {"A.B": 2}}, "another A.B: 1, and now it is 2"),
        ({"weights": "def"}, 'another weights: "abc"'),
        ({"sam": "vit_b"}, "another sam: not given"),
    ):
        with pytest.raises(UsageError, match=message):
            run_on("out", "p", identity={**IDENTITY, **changed})
        assert tree(in_tmp / "out") == before
    other = {**IDENTITY, "things": ["cat"]}
    assert run_on("out", "p", identity=other, overwrite=True) == (1, 0, 0)
    assert run_on("out", "p", identity=other) == (0, 1, 0)


def test_a_second_run_into_one_folder_is_refused(in_tmp):
    write_image(in_tmp / "p/1.png")
    refused = pytest.raises(UsageError, match="another process writes results into out")
    with RunFolder("out", IDENTITY), refused:
        run_on("out", "p")
    assert run_on("out", "p") == (1, 0, 0)


def test_files_of_the_user_are_kept(in_tmp):
    write_image(in_tmp / "p/1.png")
    write_image(in_tmp / "p/2.png")
    (in_tmp / "out").mkdir()
    (in_tmp / "out/2.json").write_text('{"mine": 1}')
    with pytest.raises(UsageError, match=r"2\.json exists and is not a result"):
        run_on("out", "p")
    assert (in_tmp / "out/2.json").read_text() == '{"mine": 1}'
    assert not (in_tmp / "out/1.json").exists()
    assert run_on("out", "p", overwrite=True) == (2, 0, 0)
    with pytest.raises(UsageError, match="would overwrite the image"):
        run_on("p", "p/1.png", formats=("overlay",))


def test_full_and_read_only_disks_stop_a_run(in_tmp, monkeypatch):
    for number in range(3):
        write_image(in_tmp / f"p/{number}.png")
    write = os.write

    def full(stream, data):
        if data.startswith(b'{"name": "1"'):  # the record of the second image
            write(stream, data[:50])
            raise OSError(28, "No space left on device")
        return write(stream, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="there is no space left on its disk"):
            run_on("out", "p")
    assert run_on("out", "p") == (2, 1, 0)
    if os.geteuid() != 0:
        os.chmod("p", 0o500)
        with pytest.raises(OSError, match="may not read or write it"):
            run_on("p/out", "p")
        os.chmod("p", 0o700)
    (in_tmp / "file").touch()
    with pytest.raises(OSError, match="a part of this path is a file"):
        run_on("file/out", "p")


def write_video(path, frames, size=(32, 48)):
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size[::-1])
    for number in range(frames):
        writer.write(np.full((*size, 3), 20 * number, np.uint8))
    writer.release()


def test_frames_of_a_video_are_images(in_tmp):
    write_video(in_tmp / "p/v.avi", 7)
    write_image(in_tmp / "p/v.png")
    seen = []

    def record(pixels):
        seen.append(int(pixels[..., 0].mean().round()))
        return segment(pixels)

    assert run_on("out", "p/v.avi", "p/v.png", every=3, call=record) == (4, 0, 0)
    assert np.abs(np.array(seen[:3]) - [0, 60, 120]).max() <= 3
    assert (in_tmp / "out/v/frame_000003.json").exists()
    image = json.loads((in_tmp / "out/v/frame_000006.json").read_text())["image"]
    assert image == {"file": "p/v.avi", "width": 48, "height": 32, "frame": 6}
    assert run_on("out", "p/v.avi", every=3, call=refuse) == (0, 3, 0)
    (in_tmp / "out/v/frame_000003.png").unlink(missing_ok=True)
    assert run_on("out", "p/v.avi", every=3, call=refuse, formats=("overlay",)) == (0, 3, 0)
    drawn = np.asarray(Image.open(in_tmp / "out/v/frame_000003.png"))
    assert drawn.shape[0] >= 32
    assert run_on("out", "p/v.avi") == (4, 3, 0)


def test_videos_without_frames_are_errors(in_tmp):
    write_video(in_tmp / "p/none.avi", 0)
    (in_tmp / "p/text.mp4").write_text("no video")
    (in_tmp / "p/empty.mkv").touch()
    write_image(in_tmp / "p/1.png")
    assert run_on("out", "p", "nowhere.mp4") == (1, 0, 4)
    assert all("video" in entry["error"] for entry in errors_of("out")[:3])


def killed_run(log):
    """A run of a process that is killed; computed images are listed in a log."""

    def slow(pixels):
        time.sleep(0.002)
        with open(log, "a") as file:
            file.write(f"{pixels[0, 0, 0]}\n")
        return segment(pixels)

    formats = ("json", "overlay", "coco")
    run_on("out", "p", call=slow, formats=[name for name in formats if name in _known()])


def _known():
    from hipie.batch_inference import FORMAT_REGISTRY

    return FORMAT_REGISTRY


def recorded():
    """Numbers of the images with a complete record."""
    path = Path("out") / STATE / "records.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return {int(Path(json.loads(line)["source"]).stem) for line in lines}


def test_killed_runs_lose_nothing_and_repeat_nothing(in_tmp):
    """Twenty times at a random moment; then the union is complete, and no file is torn."""
    count = 40
    for number in range(count):
        write_image(in_tmp / f"p/{number}.png", number)
    context, chance = multiprocessing.get_context("fork"), random.Random(0)
    interrupted = 0
    for attempt in range(20):
        before = recorded()
        log = in_tmp / f"log{attempt}"
        process = context.Process(target=killed_run, args=(log,))
        process.start()
        time.sleep(chance.uniform(0.0, 0.25))
        process.kill()
        process.join()
        interrupted += 0 < len(recorded()) < count
        computed = set(map(int, log.read_text().split())) if log.exists() else set()
        assert not computed & before
        assert before <= recorded()
        for path in Path("out").rglob("*.json"):
            json.loads(path.read_text())
        for path in Path("out").rglob("*.png"):
            Image.open(path).load()
    assert interrupted >= 3
    done, skipped, failed = run_on("out", "p", formats=("json", "overlay"))
    assert (done + skipped, failed) == (count, 0)
    assert {path.stem for path in Path("out").glob("*.json")} >= {str(n) for n in range(count)}
    assert len(list(Path("out").glob("*.png"))) == count


def test_an_incomplete_line_at_the_end_is_removed(in_tmp):
    for number in range(2):
        write_image(in_tmp / f"p/{number}.png", number)
    run_on("out", "p")
    records = in_tmp / "out" / STATE / "records.jsonl"
    whole = records.read_bytes()
    records.write_bytes(whole[:-20])
    assert run_on("out", "p") == (1, 1, 0)
    assert records.read_bytes() == whole


def test_lines_on_the_standard_output_are_complete_and_alone(in_tmp, capsys):
    for number in range(3):
        write_image(in_tmp / f"p/{number}.png", number)
    assert run_on("out", "p/0.png", "p/1.png", formats=("jsonl",)) == (2, 0, 0)
    capsys.readouterr()
    assert run_on("out", "p", formats=("jsonl",)) == (1, 2, 0)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"]["file"] for line in lines] == [f"p/{n}.png" for n in range(3)]
    assert all(line["segments"][0]["category"] == "dog" for line in lines)


def test_unknown_formats_are_named():
    with pytest.raises(
        UsageError, match='no format "overly" for results; similar names are overlay'
    ):
        build_formats(["json,overly"])
