"""`hipie segment` and `hipie refer` with several inputs, by a segmenter without a model."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from detectron2.config import get_cfg

from hipie.cli import refer, segment
from hipie.cli.main import main
from hipie.segmentation import Segment, Segmentation
from tests.batch_inference import stub


class StubSegmenter:
    """Segments halves of images; `calls` are the arguments of every call."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.model = torch.nn.Linear(1, 1)
        self.cfg = get_cfg()
        self.cfg.INPUT.MAX_PIXELS = 10_000
        self.device = torch.device("cpu")

    def segment(self, image, things, stuff, parts, **options):
        self.calls.append((things, stuff, parts, options))
        return stub.segment(image)

    def segment_tiled(self, image, things, stuff, parts, *, tile, overlap, **options):
        self.calls.append((tile, overlap, options["min_area"]))
        return stub.segment(image)

    def refer(self, image, expressions, *, threshold):
        self.calls.append(tuple(expressions))
        return stub.segment(image)

    def stream(self, images, *names, on_error, **options):
        self.calls.append((*names, options))
        return map(stub.segment, images)


@pytest.fixture
def segmenter(monkeypatch):
    built = StubSegmenter()
    for module in (segment, refer):
        monkeypatch.setattr(module, "build_segmenter", lambda _: built)
    return built


@pytest.fixture
def photos(in_tmp):
    for number in range(3):
        stub.write_image(in_tmp / f"photos/{number}.png", number)
    (in_tmp / "photos/more").mkdir()
    stub.write_image(in_tmp / "photos/more/0.png", 9)
    return in_tmp / "photos"


def test_folders_are_segmented(photos, segmenter, capsys):
    command = ["segment", "photos", "--things", "dog", "--stuff", "grass", "--min-area", "5"]
    assert main([*command, "--recursive"]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == ["output: 4 done, 0 skipped, 0 failed"]
    content = json.loads((photos.parent / "output/more/0.json").read_text())
    assert content["settings"]["things"] == [["dog"]]
    assert content["settings"]["program"] == "hipie segment"
    assert [entry["category"] for entry in content["segments"]] == ["dog", "grass"]
    assert segmenter.calls[0][3]["min_area"] == 5
    (photos / "bad.png").write_text("no image")
    assert main([*command, "--recursive"]) == 1
    assert len(segmenter.calls) == 4
    assert capsys.readouterr().err.splitlines() == [
        "output: 0 done, 4 skipped, 1 failed (output/errors.jsonl)"
    ]
    with pytest.raises(SystemExit, match="photos/bad.png"):
        main([*command, "--recursive", "--strict"])


def test_images_are_computed_in_batches(photos, segmenter, capsys):
    segmenting = ["segment", "photos", "--things", "dog", "--batch", "3", "--output", "one"]
    assert main([*segmenting, "--max-segments", "7"]) == 0
    assert main(["refer", "photos/0.png", "a dog", "--batch", "2", "--threshold", "0.2"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "one: 3 done, 0 skipped, 0 failed",
        "output: 1 done, 0 skipped, 0 failed",
    ]
    (things, stuff, parts, options), (referring,) = segmenter.calls
    assert (things, stuff, parts) == ([("dog",)], [], {})
    assert (options["batch"], options["max_segments"]) == (3, 7)
    assert referring == {"expressions": ["a dog"], "threshold": 0.2, "batch": 2}
    # Results do not depend on it.
    assert main([*segmenting[:4], "--max-segments", "7", "--output", "one"]) == 0
    assert capsys.readouterr().err == "one: 0 done, 3 skipped, 0 failed\n"


@pytest.mark.parametrize("command", ["segment", "refer"])
@pytest.mark.parametrize("more", [[], ["--batch", "2"], ["--tile", "32"]])
def test_every_result_is_refined(photos, segmenter, monkeypatch, command, more):
    if command == "refer" and "--tile" in more:
        pytest.skip("expressions have no tiles")
    methods = []

    def refine(result, method, *, sam):
        methods.append((method, sam))
        top = Segment("dog", "thing", result.segments[0].mask & False, 0.75)
        return Segmentation(result.image, (top,), result.class_names)

    monkeypatch.setattr(Segmentation, "refine", refine)
    names = ["--things", "dog"] if command == "segment" else ["a dog"]
    images = ["photos", *more] if command == "segment" else ["photos"]
    given = [command, *images, *names, *([] if command == "segment" else more)]
    assert main([*given, "--refine", "pamr"]) == 0
    assert methods == [("pamr", None)] * 3
    for number in range(3):
        content = json.loads((photos.parent / f"output/{number}.json").read_text())
        assert [entry["area"] for entry in content["segments"]] == [0]
        assert content["settings"]["refine"] == "pamr"
    # Results depend on it.
    with pytest.raises(SystemExit) as stop:
        main(given)
    assert stop.value.code == 2


def test_sam_without_its_refinement_is_refused(photos, segmenter, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["refer", "photos", "a dog", "--sam", "vit_b", "--refine", "pamr"])
    assert stop.value.code == 2
    assert "--sam and --sam-weights are for --refine sam" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "2"], "--batch is for one process, without --workers and --engine ray"),
        (["--engine", "ray"], "--batch is for one process, without --workers and --engine ray"),
        (["--tile", "64"], "--batch cannot be combined with --everything or --tile"),
    ],
)
def test_batches_that_no_command_computes_are_refused(photos, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(["segment", "photos", "--things", "dog", "--batch", "2", *arguments])
    assert error.value.code == 2 or message in str(error.value)
    assert message in capsys.readouterr().err + str(error.value)


def test_other_vocabularies_weights_and_keys_are_refused(photos, segmenter, capsys):
    assert main(["segment", "photos", "--things", "dog"]) == 0

    def refused(*more):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["segment", "photos", "--things", "dog", *more])
        assert stop.value.code == 2
        return capsys.readouterr().err.splitlines()[0]

    assert "another stuff: not given, and now it is" in refused("--stuff", "sky")
    assert "another min_score" in refused("--min-score", "0.5")
    segmenter.cfg.INPUT.MIN_SIZE_TEST = 123
    assert "another INPUT.MIN_SIZE_TEST: 800, and now it is 123" in refused()
    segmenter.cfg.INPUT.MIN_SIZE_TEST = 800
    torch.nn.init.zeros_(segmenter.model.weight)
    assert "another weights" in refused()
    assert main(["segment", "photos", "--things", "dog", "--overwrite"]) == 0
    assert main(["segment", "photos", "--things", "dog"]) == 0
    assert len(segmenter.calls) == 6


def test_ctrl_c_keeps_what_was_written(photos, segmenter, capsys):
    calls = []

    def interrupted(image, *_, **__):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return stub.segment(image)

    segmenter.segment = interrupted
    with pytest.raises(SystemExit) as stop:
        main(["segment", "photos", "--things", "dog"])
    assert stop.value.code == 130
    assert capsys.readouterr().err.splitlines() == ["output: 1 done, 0 skipped, 0 failed"]
    assert main(["segment", "photos", "--things", "dog"]) == 0
    assert len(calls) == 4


def test_lines_go_to_the_standard_output_alone(photos, segmenter, capsys):
    assert main(["segment", "photos", "--things", "dog", "--format", "jsonl"]) == 0
    printed = capsys.readouterr()
    files = [json.loads(line)["image"]["file"] for line in printed.out.splitlines()]
    assert files == ["photos/0.png", "photos/1.png", "photos/2.png"]
    assert "3 done" in printed.err
    assert not list((photos.parent / "output").glob("*.png"))


def test_expressions_follow_the_images(photos, segmenter):
    command = ["refer", "photos/0.png", "photos/more", "photos/[12].png", "the dog", "a [red] cat"]
    assert main(command) == 0
    assert segmenter.calls == [("the dog", "a [red] cat")] * 4
    content = json.loads((photos.parent / "output/more/0.json").read_text())
    assert content["settings"]["expressions"] == ["the dog", "a [red] cat"]


def test_large_images_are_failures(photos, segmenter, capsys):
    stub.write_image(photos / "large.png", 0, (200, 200))
    assert main(["segment", "photos", "--things", "dog"]) == 1
    (line,) = (photos.parent / "output/errors.jsonl").read_text().splitlines()
    assert "too many pixels" in json.loads(line)["error"]


def test_nothing_is_left_by_a_command_that_builds_no_model(photos, monkeypatch):
    from hipie.errors import InputError

    def refuse(_):
        raise InputError("no such model")

    monkeypatch.setattr(segment, "build_segmenter", refuse)
    with pytest.raises(SystemExit, match="no such model"):
        main(["segment", "photos", "--things", "dog"])
    assert not (photos.parent / "output").exists()


def test_tiles_are_a_setting_of_the_results(photos, segmenter, capsys):
    command = ["segment", "photos", "--things", "dog"]
    assert main([*command, "--tile", "64", "--overlap", "0.5", "--min-area", "4"]) == 0
    assert segmenter.calls == [(64, 0.5, 4)] * 3
    content = json.loads((photos.parent / "output/0.json").read_text())
    assert (content["settings"]["tile"], content["settings"]["overlap"]) == (64, 0.5)
    for arguments, message in (
        (["--tile", "64", "--min-area", "4"], "another overlap: 0.5, and now it is 0.25"),
        (["--tile", "8"], "--tile has to be a number of pixels from 32, not 8"),
        (["--tile", "64", "--overlap", "0.6"], "--overlap has to be a share in 0 to 0.5, not 0.6"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, *arguments])
        assert message in (str(stop.value) + capsys.readouterr().err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address", "auto"], "--address needs --engine ray"),
        (["--gpus-per-worker", "0.5"], "--gpus-per-worker needs --engine ray"),
        (["--shard-size", "8", "--workers", "2"], "--shard-size needs --engine ray"),
        (["--engine", "ray", "--format", "yolo"], "--engine ray writes parquet and coco, not yolo"),
        (["--engine", "ray", "--every", "2"], "--every is about videos"),
        (["--engine", "ray", "--shard-size", "0"], "0 is not a number from 1 to 100,000"),
        (["--engine", "ray", "--gpus-per-worker", "1.5"], "1.5 is not a share of a GPU"),
        (["--engine", "ray", "--output", "photos/0.png"], "photos/0.png is a file name"),
        (["--engine", "ray", "--output", "photos"], "into the folder that is read"),
        (["--engine", "spark"], "invalid choice: 'spark'"),
    ],
)
def test_arguments_of_clusters_are_checked(photos, segmenter, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(["segment", "photos", "--things", "dog", *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_package_is_named(photos, segmenter, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        SystemExit, match='which is not installed: pip install "hipie.ray."'
    ) as error:
        main(["segment", "photos", "--things", "dog", "--engine", "ray"])
    assert str(error.value).count("\n") == 0


def test_classes_of_a_cluster_are_those_of_the_command():
    parts = {"dog": ["head"], "Car": ["wheel"]}
    kinds = segment._part_kinds([("car", "auto")], [("grass",)], parts)
    assert list(kinds.items()) == [
        ("car", "thing"),
        ("dog", "thing"),
        ("grass", "stuff"),
        ("dog head", "part"),
        ("car wheel", "part"),
    ]
    assert segment._part_kinds([], [], {}) == {}


def test_expressions_are_not_about_tiles(photos, segmenter, capsys):
    with pytest.raises(SystemExit) as error:
        main(["refer", "photos", "the left dog", "--tile", "512"])
    assert error.value.code == 2
    assert "hipie refer cannot read tiles" in capsys.readouterr().err.splitlines()[-1]
    assert segmenter.calls == []
