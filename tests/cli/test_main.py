"""The commands: parsing of class names, files that are written, and errors of one line."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from PIL import Image

from hipie import Segmenter, __version__
from hipie.cli import doctor, group, refer, segment
from hipie.cli.arguments import DEFAULT_CONFIG, parse_names, parse_parts
from hipie.cli.main import COMMANDS, main, shorten_active_waiting
from hipie.errors import InputError, UsageError
from hipie.modeling.text_encoder.caption import expression_caption
from hipie.segmentation import Heatmaps, Segment, Segmentation
from hipie.vocabularies import Vocabulary

TINY = str(Path(__file__).parents[1] / "tiny.yaml")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_threads_wait_shortly_unless_the_user_says_otherwise(environment, expected) -> None:
    shorten_active_waiting(environment)
    assert environment == expected


def test_commands_set_it_before_pytorch_is_loaded() -> None:
    """OpenMP reads the variable when PyTorch loads it, as it says on request."""
    program = (
        "import sys; from hipie.cli.main import main; assert 'torch' not in sys.modules\n"
        "try: main(['segment', '--help'])\n"
        "finally: import torch"
    )
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        environment.pop(name, None)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("PyTorch has another OpenMP than GNU's")
    assert "GOMP_SPINCOUNT = '10000'" in done.stderr


def test_classes_and_synonyms_are_parsed() -> None:
    assert parse_names("car; dog, puppy ;") == [("car",), ("dog", "puppy")]
    assert parse_names("") == []


def test_parts_are_parsed_by_whole() -> None:
    assert parse_parts("car: wheel, window; dog: head") == {
        "car": ["wheel", "window"],
        "dog": ["head"],
    }


@pytest.mark.parametrize("text", ["wheel", ": wheel", "car:"])
def test_parts_without_whole_or_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole: part"):
        parse_parts(text)


def test_names_are_read_in_a_locale_without_utf8() -> None:
    """Python decodes a command line in the C locale to surrogates."""
    argument = "größe; 犬, 狗".encode().decode("ascii", "surrogateescape")
    assert parse_names(argument) == [("größe",), ("犬", "狗")]
    assert parse_parts("größe: ö".encode().decode("ascii", "surrogateescape")) == {"größe": ["ö"]}
    with pytest.raises(UsageError, match=r'"gr\?" is not valid text; use a locale with UTF-8'):
        parse_names("gr\udcf6")


@pytest.mark.parametrize("text", ["gr\udcf6", "\ud83d"])
def test_text_that_is_no_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not valid text"):
        Vocabulary.from_names(things=[text + "box"])
    with pytest.raises(ValueError, match="is not valid text"):
        expression_caption(f"the {text} box")


def test_one_line_is_all_that_a_failed_command_prints(image, tmp_path) -> None:
    names = b"gr\xc3\xb6\xc3\x9fe"
    arguments = ["segment", image, "--things", names, "--device", "cuda:93"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "hipie", *arguments], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("hipie segment: the device cuda:93 is not available")


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "nowhere.jpg", "--things", "dog", "--config-file", "no_such_config"],
        ["refer", "nowhere.jpg", "the dog", "--config-file", "no_such_config"],
    ],
)
def test_bad_input_gives_one_line(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, str)
    assert len(stop.value.code.splitlines()) == 1


@pytest.fixture
def image(tmp_path):
    """An image file of noise."""
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return str(tmp_path / "image.png")


def test_masks_are_refined_by_sam(image, tiny_text, tiny_weights, tmp_path) -> None:
    pytest.importorskip("segment_anything")
    from hipie.modeling.sam.predictor import Sam

    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.OBJECT_MASK_THRESHOLD", "0.0"]
    opts += ["MODEL.HIPIE.HIDDEN_DIM", "64", "MODEL.HIPIE.OVERLAP_THRESHOLD", "0.0"]
    classes = ["--things", "dog; car", "--stuff", "grass"]
    given = ["segment", image, *classes, "--config-file", TINY, "--weights", str(tiny_weights)]
    given += ["--device", "cpu", "--output", str(tmp_path / "out")]
    written = {}
    for name, more in (("plain", []), ("refined", ["--sam", "random:tiny"])):
        assert main([*given, *more, "--opts", *opts]) == 0
        written[name] = json.loads((tmp_path / "out/image.json").read_text())["segments"]
    segmenter = Segmenter.from_config(TINY, tiny_weights, "cpu", opts)
    sam = Sam.from_source("random:tiny")
    things, stuff = [("dog",), ("car",)], [("grass",)]
    plain = segmenter.segment(image, things, stuff)
    assert written["plain"] == plain.to_dict()["segments"]
    refined = segmenter.segment(image, things, stuff, sam=sam)
    assert written["refined"] == refined.to_dict()["segments"]
    assert written["refined"] != written["plain"]
    assert main([*given, "--sam", "random:tiny", "--refine", "sam", "--opts", *opts]) == 0
    content = json.loads((tmp_path / "out/image.json").read_text())
    assert content["segments"] == plain.refine("sam", sam=sam).to_dict()["segments"]
    assert content["settings"]["refine"] == "sam"


def test_automatic_masks_are_labelled(
    image, tiny_text, tiny_weights, tmp_path, monkeypatch
) -> None:
    pytest.importorskip("segment_anything")
    from hipie.modeling.sam import automatic_masks as module
    from hipie.modeling.sam.predictor import Sam

    permissive = {"points_per_side": 3, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0}
    automatic_masks = partial(module.automatic_masks, **permissive)
    monkeypatch.setattr(module, "automatic_masks", automatic_masks)
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", "64"]
    given = ["segment", image, "--things", "dog; car", "--stuff", "grass", "--config-file", TINY]
    given += [
        "--weights",
        str(tiny_weights),
        "--device",
        "cpu",
        "--output",
        str(tmp_path / "out"),
    ]
    given += ["--parts", "dog: head, tail"]
    main([*given, "--sam", "random:tiny", "--everything", "--opts", *opts])
    segmenter = Segmenter.from_config(TINY, tiny_weights, "cpu", opts)
    sam = Sam.from_source("random:tiny")
    parts = {"dog": ["head", "tail"]}
    labelled = segmenter.segment_everything(image, sam, [("dog",), ("car",)], [("grass",)], parts)
    written = json.loads((tmp_path / "out/image.json").read_text())
    assert written["segments"] == labelled.to_dict()["segments"] != []


class GroupStub:
    """Segments the upper half of an image whose file name contains "shown"."""

    cfg = CfgNode({"INPUT": {"MAX_PIXELS": 1_000_000}})

    @staticmethod
    def refer_group(images, expression):
        results = []
        for name in images:
            mask = np.zeros((70, 90), bool)
            mask[:35] = "shown" in name
            segments = [Segment(expression, "expression", mask, 0.7)]
            results.append(Segmentation(np.zeros((70, 90, 3), np.uint8), segments))
        return results


def test_group_command_draws_heatmaps_on_request(image, tmp_path, monkeypatch, capsys) -> None:
    class WithHeatmaps(GroupStub):
        @staticmethod
        def refer_group(images, expression, *, heatmaps):
            assert heatmaps is True
            maps = Heatmaps(np.eye(3, dtype=np.float32), np.ones((2, 3, 3), np.float32), (1, 0))
            results = GroupStub.refer_group(images, expression)
            return [replace(result, heatmaps=maps) for result in results]

    monkeypatch.setattr(group, "build_segmenter", lambda *_, **__: WithHeatmaps)
    output = tmp_path / "out"
    main(["group", "the dog", image, image, "--heatmaps", "--output", str(output)])
    assert str(output / "heatmaps.png") in capsys.readouterr().out
    assert Image.open(output / "heatmaps.png").width > 200
    assert {path.name for path in output.iterdir()} == {"group.json", "group.png", "heatmaps.png"}


def test_group_results_are_written_by_file(image, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(group, "build_segmenter", lambda *_, **__: GroupStub)
    shown, broken = str(tmp_path / "shown.png"), str(tmp_path / "broken.png")
    Path(shown).write_bytes(Path(image).read_bytes())
    Path(broken).write_bytes(b"no image")
    given = ["group", "the dog", image, broken, shown, shown, "--output", str(tmp_path / "out")]
    main([*given, "--skip-broken"])
    content = json.loads((tmp_path / "out/group.json").read_text())
    assert content["settings"]["expression"] == "the dog"
    results = content["images"]
    assert [(entry["image"]["file"], entry["shown"]) for entry in results] == [
        (image, False), (shown, True), (shown, True)
    ]  # fmt: skip
    assert all((entry["image"]["width"], entry["image"]["height"]) == (90, 70) for entry in results)
    assert [len(entry["segments"]) for entry in results] == [0, 1, 1]
    assert results[1]["segments"][0]["area"] == 35 * 90
    assert "skipped" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="none of the images can be read: .*broken.png"):
        main(["group", "the dog", broken, "--skip-broken"])


def test_expressions_without_a_mask_are_said(image, tmp_path, monkeypatch, capsys) -> None:
    class Empty:
        @staticmethod
        def refer(name, expressions, *, threshold):
            assert threshold == 0.5
            segments = [
                Segment(expression, "expression", np.zeros((70, 90), bool), score)
                for expression, score in zip(expressions, (0.12, 0.34), strict=True)
            ]
            return Segmentation(np.zeros((70, 90, 3), np.uint8), segments, file_name=name)

    monkeypatch.setattr(refer, "build_segmenter", lambda _: Empty)
    out = ["--output", str(tmp_path / "out")]
    assert main(["refer", image, "the dog", "the cat", "--threshold", "0.5", *out]) == 0
    assert f'{image}: nothing was found; the best score is 0.34 ("the cat")' in (
        capsys.readouterr().err
    )
    written = json.loads((tmp_path / "out/image.json").read_text())
    assert [entry["category"] for entry in written["segments"]] == ["the dog", "the cat"]
    assert written["settings"]["expressions"] == ["the dog", "the cat"]
    assert written["settings"]["threshold"] == 0.5
    monkeypatch.setattr(group, "build_segmenter", lambda *_, **__: GroupStub)
    assert main(["group", "the dog", image, *out]) == 0
    assert 'none of the images shows "the dog"' in capsys.readouterr().err


def test_group_command_builds_a_model_for_groups_by_default(image, monkeypatch, tmp_path) -> None:
    taken = []

    def from_config(config_file, *_, **__):
        taken.append(config_file)
        raise InputError("enough")

    monkeypatch.setattr(Segmenter, "from_config", from_config)
    for more in ([], ["--config-file", TINY]):
        with pytest.raises(SystemExit, match="enough"):
            main(["group", "the dog", image, "--output", str(tmp_path / "out"), *more])
    with pytest.raises(SystemExit, match="enough"):
        main(["refer", image, "the dog", "--output", str(tmp_path / "out")])
    assert taken == ["grser/grser_nano_picturebook.yaml", TINY, DEFAULT_CONFIG]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sam", "vit_bb"], 'no SAM model "vit_bb"; similar names are vit_b'),
        (["--sam", "vit_b"], "SAM vit_b needs the file of weights"),
        (["--sam", "vit_b", "--sam-weights", "nowhere.pth"], "nowhere.pth"),
        (["--sam-weights", "nowhere.pth"], "nowhere.pth"),
        (["--everything"], "--everything needs --sam"),
        (["--refine", "sam"], "--refine sam needs --sam"),
        (["--refine", "sam", "--sam", "vit_bb"], 'no SAM model "vit_bb"'),
    ],
)
def test_unusable_sam_arguments_give_one_line(image, more, message, capsys) -> None:
    pytest.importorskip("segment_anything")
    with pytest.raises(SystemExit) as stop:
        main(["segment", image, "--things", "dog", "--config-file", TINY, *more])
    wrong_usage = message.startswith("--")
    printed = capsys.readouterr().err.strip() if wrong_usage else stop.value.code
    assert (stop.value.code == 2) is wrong_usage
    assert message in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("command", [["segment"], ["refer"], ["group", "the dog"]])
def test_input_images_are_never_overwritten(image, monkeypatch, command, capsys) -> None:
    if command[0] == "group":
        image = str(Path(image).rename(Path(image).with_name("group.png")))
    before = Path(image).read_bytes()
    monkeypatch.chdir(Path(image).parent)
    more = {"refer": ["the dog"], "segment": ["--things", "dog"]}.get(command[0], [])
    with pytest.raises(SystemExit) as stop:
        main([*command, image, *more, "--config-file", TINY, "--output", "."])
    assert stop.value.code == 2
    assert "would overwrite the image" in capsys.readouterr().err
    assert Path(image).read_bytes() == before


def test_missing_sam_package_gives_one_line(image, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "hipie.modeling.sam.predictor", raising=False)
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(SystemExit) as stop:
        main(["segment", image, "--things", "dog", "--config-file", TINY, "--sam", "random:tiny"])
    assert "--sam needs the package segment_anything: pip install" in stop.value.code
    assert len(stop.value.code.splitlines()) == 1


@pytest.mark.parametrize(
    ("method", "module", "package"),
    [("sam", "segment_anything", "segment_anything"), ("crf", "pydensecrf", "pydensecrf2")],
)
@pytest.mark.parametrize("command", ["segment", "refer"])
def test_missing_packages_of_refinements_are_errors_before_the_model_is_built(
    image, monkeypatch, command, method, module, package
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    built = []
    monkeypatch.setattr(importlib.import_module(f"hipie.cli.{command}"), "build_segmenter", built)
    names = ["--things", "dog"] if command == "segment" else ["the dog"]
    sam = ["--sam", "random:tiny"] if method == "sam" else []
    for images in ([image], [image, image]):
        with pytest.raises(SystemExit) as stop:
            main([command, *images, *names, "--refine", method, *sam, "--output", "out"])
        assert f"--refine {method} needs the package {package}: pip install" in stop.value.code
        assert len(stop.value.code.splitlines()) == 1


def test_names_of_refinements_are_those_of_the_package() -> None:
    from hipie.cli import refinement
    from hipie.refinement import REFINEMENTS

    assert refinement.REFINEMENTS == REFINEMENTS


def test_doctor_is_a_command(monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "report", lambda: (["all is well"], True))
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out == "all is well\n"


def test_every_listed_command_exists() -> None:
    for module, _ in COMMANDS.values():
        command = importlib.import_module(module).main
        inspect.signature(command).bind(["--help"])


def test_ctrl_c_ends_a_command_without_a_message(monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(segment, "build_segmenter", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["segment", "image.png", "--things", "dog"])
    assert stop.value.code == 130


def test_module_lists_its_commands() -> None:
    command = [sys.executable, "-m", "hipie", "--help"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in ("segment", "refer", "group", "demo", "doctor", "checkpoint", "data"):
        assert name in output


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_have_help(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        sys.exit(main([name, "--help"]))
    assert stop.value.code == 0
    assert f"hipie {name}" in capsys.readouterr().out


def test_unknown_command_is_named(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["segmet"])
    assert stop.value.code == 2
    assert "segmet" in capsys.readouterr().err


def test_output_type_and_min_score_reach_the_segmenter(
    image, tiny_text, tiny_weights, tmp_path
) -> None:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", "64"]
    given = ["segment", image, "--things", "dog; car", "--config-file", TINY, "--device", "cpu"]
    given += ["--weights", str(tiny_weights), "--output", str(tmp_path / "out")]
    kind = ["--output-type", "instances", "--min-score", "0.01"]
    assert main([*given, *kind, "--opts", *opts]) == 0
    segmenter = Segmenter.from_config(TINY, tiny_weights, "cpu", opts)
    result = segmenter.segment(image, ["dog", "car"], output="instances", min_score=0.01)
    written = json.loads((tmp_path / "out/image.json").read_text())
    assert written["image"] == {"file": image, "width": 90, "height": 70}
    assert written["segments"] == result.to_dict()["segments"] != []
    chosen = {name: written["settings"][name] for name in ("min_score", "config_file", "device")}
    assert chosen == {"min_score": 0.01, "config_file": TINY, "device": "cpu"}
    limits = ["--min-area", "200", "--max-segments", "2"]
    assert main([*given, *kind, *limits, "--opts", *opts]) == 0
    written = json.loads((tmp_path / "out/image.json").read_text())["segments"]
    large = [entry for entry in result.to_dict()["segments"] if entry["area"] >= 200]
    expected = sorted(large, key=lambda entry: -entry["score"])[:2]
    assert {str(entry["segmentation"]) for entry in written} == {
        str(entry["segmentation"]) for entry in expected
    }
    assert len(written) == 2


def test_an_empty_result_names_the_best_score(
    image, tiny_text, tiny_weights, tmp_path, capsys
) -> None:
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", "64"]
    given = ["segment", image, "--config-file", TINY, "--device", "cpu", "--min-score", "1"]
    given += ["--weights", str(tiny_weights), "--output", str(tmp_path / "out")]
    segmenter = Segmenter.from_config(TINY, tiny_weights, "cpu", opts)
    found = segmenter.segment(image, ["dog", "car"], output="instances", min_score=0)
    best = max(found, key=lambda segment: segment.score)
    for names, expected in (
        (["--things", "dog; car"], f'{best.score:.2f} ("{best.label}")'),
        (["--stuff", "grass"], '("grass")'),
    ):
        assert main([*given, *names, "--opts", *opts]) == 0
        printed = capsys.readouterr().err
        assert f"{image}: nothing was found; the best score is" in printed and expected in printed
        assert json.loads((tmp_path / "out/image.json").read_text())["segments"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "EMPTY", "--things", "dog"], "there is no image and no video in"),
        (["segment", "*.webp", "--things", "dog"], "there is no image and no video in *.webp"),
        (["segment", "FOLDER", "--things", "dog", "--output", "."], "into the folder that is read"),
        (["segment", "IMAGE", "--things", "dog", "--format", "cocoa"], 'no format "cocoa"'),
        (["segment", "IMAGE", "--things", "dog", "--image-root", "no"], "no such folder"),
        (["refer", "EMPTY", "the dog"], "there is no image and no video in"),
        (["refer", "IMAGE", "IMAGE"], "write hipie refer IMAGE... EXPRESSION..."),
        (["refer", "IMAGE", "the dog", "IMAGE"], "images come before expressions"),
        (["group", "the dog", "FOLDER"], "is a folder, and image files are read; for several"),
        (["group", "IMAGE", "IMAGE"], "is a file; write hipie group EXPRESSION IMAGE"),
        (["demo", "--input", "FOLDER", "--things", "dog", "--output", "out"], "is a folder"),
        (["segment", "IMAGE", "--things", "dog", "--output", "out.json"], "name a folder"),
        (["segment", "IMAGE", "--things", "dog", "--output", "IMAGE"], "name a folder"),
        (["segment", "IMAGE", "--parts", "car:wheel:rim"], "more than one colon"),
        (["segment", "IMAGE"], "name at least one class with --things, --stuff or --parts"),
    ],
)
def test_wrong_usage_says_what_is_accepted(
    image, tmp_path, monkeypatch, capsys, arguments, message
) -> None:
    (tmp_path / "empty").mkdir()
    names = {"IMAGE": image, "FOLDER": str(tmp_path), "EMPTY": str(tmp_path / "empty")}
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        main([names.get(argument, argument) for argument in arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert set(tmp_path.iterdir()) == before


def test_advice_is_in_the_language_of_the_caller(image, tmp_path) -> None:
    with pytest.raises(ValueError, match="pass weights=FILE"):
        Segmenter.from_config(TINY, device="cpu")
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="name them with --weights FILE"):
        main(["segment", image, "--things", "dog", "--config-file", TINY, "--output", str(out)])


class UpperHalf:
    """Segments the upper half of an image."""

    @staticmethod
    def segment(image, *_, **__):
        mask = np.zeros((70, 90), bool)
        mask[:35] = True
        pixels = np.zeros((70, 90, 3), np.uint8)
        return Segmentation(pixels, [Segment("dog", "thing", mask, 0.7)], file_name=image)


@pytest.mark.parametrize("kind", ["file", "symlink", "hard link", "broken link"])
@pytest.mark.parametrize("suffix", ["png", "json"])
def test_files_of_others_are_replaced_with_overwrite_only(
    image, tmp_path, monkeypatch, capsys, kind, suffix
) -> None:
    out, notes = tmp_path / "out", tmp_path / "notes"
    out.mkdir()
    existing = out / f"image.{suffix}"
    if kind == "file":
        existing.write_text("mine")
    else:
        notes.write_text("mine")
        (os.link if kind == "hard link" else os.symlink)(notes, existing)
    if kind == "broken link":
        notes.unlink()
    given = ["segment", image, "--things", "dog", "--output", str(out)]
    monkeypatch.setattr(segment, "build_segmenter", lambda *_: pytest.fail("checked too late"))
    with pytest.raises(SystemExit) as stop:
        main(given)
    assert stop.value.code == 2
    assert f"{existing} exists and is not a result of hipie" in capsys.readouterr().err
    monkeypatch.setattr(segment, "build_segmenter", lambda *_: UpperHalf)
    assert main([*given, "--overwrite"]) == 0
    assert not existing.is_symlink()
    assert not notes.exists() if kind in ("file", "broken link") else notes.read_text() == "mine"
    assert main(given) == 0, "results of the same command are replaced"
    assert {path.name for path in out.iterdir()} == {"image.png", "image.json"}


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_links_to_the_input_are_not_overwritten(image, tmp_path, capsys, link) -> None:
    (tmp_path / "out").mkdir()
    link(image, tmp_path / "out/image.png")
    given = ["segment", image, "--things", "dog", "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main([*given, "--overwrite"])
    assert stop.value.code == 2
    assert "would overwrite the image" in capsys.readouterr().err


def test_help_and_version_import_little() -> None:
    """Of the help of `hipie data` and of `hipie --version` only the usage is needed."""
    program = (
        "import sys; from hipie.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'detectron2', 'numpy', 'PIL', 'hipie.data'} & set(sys.modules)\n"
        "print(len(sys.modules), heavy, file=sys.stderr)"
    )
    for arguments, expected in (
        (["--version"], f"hipie {__version__}"),
        (["data", "--help"], "hipie data {show,check,expressions,pseudo-label}"),
        (["segment", "--help"], "--max-segments"),
    ):
        command = [sys.executable, "-c", program, *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        assert expected in ended.stdout
        count, _, heavy = ended.stderr.strip().partition(" ")
        assert heavy == "set()" and int(count) < 400


def test_threads_and_precision_reach_pytorch(image, tiny_text, tiny_weights, tmp_path) -> None:
    before = torch.get_num_threads()
    given = ["segment", image, "--things", "dog", "--config-file", TINY, "--device", "cpu"]
    given += ["--weights", str(tiny_weights), "--output", str(tmp_path / "out")]
    given += ["--threads", str(before + 1), "--precision", "bfloat16"]
    opts = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", "64"]
    try:
        assert main([*given, "--opts", *opts]) == 0
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    settings = json.loads((tmp_path / "out/image.json").read_text())["settings"]
    assert settings["precision"] == "bfloat16"


@pytest.mark.parametrize("number", ["0", "-1", "two", "1e3", "99999"])
def test_numbers_of_threads_are_checked(number: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["refer", "image.png", "the dog", "--threads", number])
    assert stop.value.code == 2
    assert "is not a number of threads" in capsys.readouterr().err
