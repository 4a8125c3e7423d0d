"""The command line: how words are separated, and errors of one line."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hipie import Segmenter
from hipie.cli import doctor
from hipie.cli import main as cli
from hipie.cli.main import main, parse_names, parse_parts
from hipie.segmentation import Segment, Segmentation

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


def test_classes_and_synonyms() -> None:
    assert parse_names("car; dog, puppy ;") == [("car",), ("dog", "puppy")]
    assert parse_names("") == []


def test_parts_by_whole() -> None:
    assert parse_parts("car: wheel, window; dog: head") == {
        "car": ["wheel", "window"],
        "dog": ["head"],
    }


@pytest.mark.parametrize("text", ["wheel", ": wheel", "car:"])
def test_parts_without_whole_or_names_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="whole: part"):
        parse_parts(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "nowhere.jpg", "--things", "dog", "--config-file", "no_such_config"],
        ["refer", "nowhere.jpg", "the dog", "--config-file", "no_such_config"],
        ["segment", "nowhere.jpg", "--parts", "wheel"],
    ],
)
def test_bad_input_ends_with_one_line(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, str)
    assert len(stop.value.code.splitlines()) == 1


@pytest.fixture
def page(tmp_path):
    """A file of noise."""
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "page.png")
    return str(tmp_path / "page.png")


def test_masks_are_refined_by_sam(page, tiny_text, tiny_weights, tmp_path) -> None:
    pytest.importorskip("segment_anything")
    from hipie.modeling.sam.predictor import Sam

    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.OBJECT_MASK_THRESHOLD", "0.0"]
    opts += ["MODEL.HIPIE.HIDDEN_DIM", "64", "MODEL.HIPIE.OVERLAP_THRESHOLD", "0.0"]
    words = ["--things", "dog; car", "--stuff", "grass"]
    given = ["segment", page, *words, "--config-file", TINY, "--weights", str(tiny_weights)]
    given += ["--device", "cpu", "--output", str(tmp_path / "found")]
    found = {}
    for name, more in (("plain", []), ("refined", ["--sam", "random:tiny"])):
        main([*given, *more, "--opts", *opts])
        found[name] = json.loads((tmp_path / "found/page.json").read_text())
    segmenter = Segmenter.from_config(TINY, tiny_weights, "cpu", opts)
    sam = Sam.from_source("random:tiny")
    things, stuff = [("dog",), ("car",)], [("grass",)]
    assert found["plain"] == segmenter.segment(page, things, stuff).to_coco()
    assert found["refined"] == segmenter.segment(page, things, stuff, sam=sam).to_coco()
    assert found["refined"] != found["plain"]


def test_everything_that_sam_finds_is_named(
    page, tiny_text, tiny_weights, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("segment_anything")
    from hipie.modeling.sam import automatic_masks as automatic
    from hipie.modeling.sam.predictor import Sam

    doubtful = {"points_per_side": 3, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0}
    found_by_sam = partial(automatic.automatic_masks, **doubtful)
    monkeypatch.setattr(automatic, "automatic_masks", found_by_sam)
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", "64"]
    given = ["segment", page, "--things", "dog; car", "--stuff", "grass", "--config-file", TINY]
    given += [
        "--weights",
        str(tiny_weights),
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "found"),
    ]
    main([*given, "--sam", "random:tiny", "--everything", "--opts", *opts])
    segmenter = Segmenter.from_config(TINY, tiny_weights, "cpu", opts)
    sam = Sam.from_source("random:tiny")
    named = segmenter.segment_everything(page, sam, [("dog",), ("car",)], [("grass",)])
    assert json.loads((tmp_path / "found/page.json").read_text()) == named.to_coco() != []


class Standin:
    """Finds the upper half of an image whose file is called so."""

    @staticmethod
    def refer_group(images, expression):
        found = []
        for name in images:
            mask = np.zeros((70, 90), bool)
            mask[:35] = "shown" in name
            segments = [Segment(expression, "expression", mask, 0.7)]
            found.append(Segmentation(np.zeros((70, 90, 3), np.uint8), segments))
        return found


def test_a_groups_answers_are_those_of_its_images(page, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli, "_segmenter", lambda *_: Standin)
    shown, broken = str(tmp_path / "shown.png"), str(tmp_path / "broken.png")
    Path(shown).write_bytes(Path(page).read_bytes())
    Path(broken).write_bytes(b"no image")
    given = ["group", "the dog", page, broken, shown, shown, "--output", str(tmp_path / "found")]
    main([*given, "--skip-broken"])
    found = json.loads((tmp_path / "found/group.json").read_text())
    assert [(one["file"], one["shown"]) for one in found] == [
        (page, False), (shown, True), (shown, True)
    ]  # fmt: skip
    assert [len(one["annotations"]) for one in found] == [0, 1, 1]
    assert found[1]["annotations"][0]["area"] == 35 * 90
    assert "left out" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="none of the images can be read: .*broken.png"):
        main(["group", "the dog", broken, "--skip-broken"])


def test_a_group_is_answered_by_a_model_for_groups(page, monkeypatch, tmp_path) -> None:
    """Unless another is asked for."""
    taken = []

    def from_config(config_file, *_):
        taken.append(config_file)
        raise ValueError("enough")

    monkeypatch.setattr(Segmenter, "from_config", from_config)
    for more in ([], ["--config-file", TINY]):
        with pytest.raises(SystemExit, match="enough"):
            main(["group", "the dog", page, "--output", str(tmp_path / "found"), *more])
    with pytest.raises(SystemExit, match="enough"):
        main(["refer", page, "the dog", "--output", str(tmp_path / "found")])
    assert taken == ["grser/grser_nano_picturebook.yaml", TINY, cli.DEFAULT_CONFIG]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--sam", "vit_bb"], 'no SAM model "vit_bb"; near ones are vit_b'),
        (["--sam", "vit_b"], "SAM vit_b needs the file of weights"),
        (["--sam", "vit_b", "--sam-weights", "nowhere.pth"], "nowhere.pth"),
        (["--sam-weights", "sam.pth"], "--sam-weights needs --sam"),
        (["--everything"], "--everything needs --sam"),
        (["--everything", "--sam", "random:tiny", "--parts", "dog: head"], "without --parts"),
    ],
)
def test_a_sam_that_cannot_be_had_is_one_line(page, more, said) -> None:
    pytest.importorskip("segment_anything")
    with pytest.raises(SystemExit) as stop:
        main(["segment", page, "--things", "dog", "--config-file", TINY, *more])
    assert said in stop.value.code
    assert len(stop.value.code.splitlines()) == 1


@pytest.mark.parametrize("command", [["segment"], ["refer"], ["group", "the dog"]])
def test_no_image_is_written_over(page, monkeypatch, command) -> None:
    if command[0] == "group":
        page = str(Path(page).rename(Path(page).with_name("group.png")))
    before = Path(page).read_bytes()
    monkeypatch.chdir(Path(page).parent)
    more = ["the dog"] if command[0] == "refer" else []
    with pytest.raises(SystemExit) as stop:
        main([*command, page, *more, "--config-file", TINY, "--output", "."])
    assert "--output . would write over the image" in stop.value.code
    assert Path(page).read_bytes() == before


def test_without_the_package_sam_is_one_line(page, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "hipie.modeling.sam.predictor", raising=False)
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(SystemExit) as stop:
        main(["segment", page, "--things", "dog", "--config-file", TINY, "--sam", "random:tiny"])
    assert "--sam needs the package segment_anything: pip install" in stop.value.code
    assert len(stop.value.code.splitlines()) == 1


def test_the_doctor_is_a_command(monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "report", lambda: (["all is well"], True))
    with pytest.raises(SystemExit) as stop:
        main(["doctor"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == "all is well\n"


def test_every_command_that_is_listed_is_there() -> None:
    for module in cli._MODULES.values():
        command = importlib.import_module(module).main
        assert len(inspect.signature(command).parameters) == 1, module


def test_ctrl_c_is_quiet(monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_segmenter", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["segment", "page.png", "--things", "dog"])
    assert stop.value.code == 130


def test_the_module_runs_and_lists_its_commands() -> None:
    command = [sys.executable, "-m", "hipie", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("segment", "refer", "group", "doctor", "checkpoint", "data"):
        assert name in shown
