"""The command line on one image."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

from hipie_interactive.__main__ import main
from tests.exit_status import exit_status

INVALID = {
    "no click": ([], "a prompt needs a click, a box, a scribble or a polygon"),
    "far": (["--click", "500,5"], r"the click at \(500, 5\) is outside the image"),
    "text": (["--click", "five"], '"five" is not 2 numbers with commas between them'),
    "both": (["--click", "5,5", "--outside", "5,5"], "both inside and outside"),
    "type": (["--click", "5,5", "--sam", "vit_q"], 'no SAM model "vit_q"'),
    "weights": (["--click", "5,5", "--sam", "vit_b", "--weights", "none.pth"], "none.pth"),
    "image": (["--click", "5,5", "--image", "none.png"], "none.png: there is no such image"),
}


@pytest.fixture
def arguments(pixels, in_tmp):
    Image.fromarray(pixels).save("a.png")
    return ["--image", "a.png", "--sam", "random:tiny"]


def test_mask_is_written(arguments, capsys):
    options = ["--click", "40,30", "--outside", "2,2", "--scribble", "20,20;60,20"]
    options += ["--scribble-outside", "1,50;9,50", "--box", "5,5,80,45", "--label", "cup"]
    main([*arguments, *options, "--output", "out/mask.json"])
    assert "out/mask.json:" in capsys.readouterr().out
    with open("out/mask.json") as file:
        assert json.load(file)["segments"][0]["category"] == "cup"
    main([*arguments, "--polygon", "5,5;60,5;60,50", "--output", "mask.png"])
    with Image.open("mask.png") as drawn:
        assert drawn.width >= 90


def test_several_images_have_one_prompt(arguments, pixels, in_tmp, capsys):
    (in_tmp / "p").mkdir()
    for name, width in (("a", 90), ("b", 80), ("small", 20)):
        Image.fromarray(pixels[:, :width]).save(f"p/{name}.png")
    (in_tmp / "p/bad.png").write_text("no image")
    line = ["--image", "p", "a.png", "--sam", "random:tiny", "--click", "40,30", "--label", "cup"]
    assert exit_status(main, [*line, "--format", "json,coco"]) == 1
    assert "output/interactive: 3 done, 0 skipped, 2 failed" in capsys.readouterr().err
    content = json.loads((in_tmp / "output/interactive/p/b.json").read_text())
    assert content["segments"][0]["category"] == "cup"
    assert content["settings"]["click"] == ["40,30"]
    errors = (in_tmp / "output/interactive/errors.jsonl").read_text().splitlines()
    by_file = {entry["file"]: entry["error"] for entry in map(json.loads, errors)}
    assert set(by_file) == {"p/bad.png", "p/small.png"}
    assert "the click at (40, 30) is outside the image" in by_file["p/small.png"]
    main([*arguments, "--click", "40,30", "--label", "cup", "--output", "one.json"])
    one = json.loads((in_tmp / "one.json").read_text())["segments"]
    assert one == json.loads((in_tmp / "output/interactive/a.json").read_text())["segments"]
    assert exit_status(main, [*line, "--format", "json,coco"]) == 1
    assert "0 done, 3 skipped, 2 failed" in capsys.readouterr().err
    assert exit_status(main, [*line[:-4], "--click", "41,30"]) == 2
    assert "another click" in capsys.readouterr().err


def test_the_image_is_not_overwritten(arguments, capsys):
    with open("a.png", "rb") as file:
        before = file.read()
    for more in ([], ["--overwrite"]):
        line = [*arguments, "--click", "5,5", "--output", "a.png", *more]
        assert exit_status(main, line) == 2
        assert "the result a.png would overwrite the image a.png" in capsys.readouterr().err
    with open("a.png", "rb") as file:
        assert file.read() == before


@pytest.mark.parametrize("name", ["mask.png", "mask.jpg", "mask.json"])
def test_files_of_the_user_are_replaced_on_request(arguments, name, capsys):
    line = [*arguments, "--click", "40,30", "--output", name]
    with open(name, "w") as file:
        file.write("mine")
    assert exit_status(main, line) == 2
    assert f"{name} exists and is not a result of hipie" in capsys.readouterr().err
    with open(name) as file:
        assert file.read() == "mine"
    assert exit_status(main, [*line, "--overwrite"]) == 0
    assert exit_status(main, line) == 0, "a result is replaced"


@pytest.mark.parametrize("case", INVALID)
def test_invalid_input_ends_with_one_line(arguments, case, capsys):
    options, message = INVALID[case]
    assert exit_status(main, [*arguments, *options]) == (2 if case == "text" else 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m hipie_interactive: ") and re.search(message, line)


def test_bugs_and_interrupts_end_with_one_line(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for error, status in ((ZeroDivisionError("foreign"), 1), (KeyboardInterrupt(), 130)):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr("hipie.modeling.sam.predictor.Sam.from_source", fail)
        assert exit_status(main, [*arguments, "--click", "5,5"]) == status
        printed = capsys.readouterr().err
        assert "foreign" not in printed and ("bug of the program" in printed) == (status == 1)
