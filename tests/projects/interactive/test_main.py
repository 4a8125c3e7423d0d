"""The command line on one image."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from hipie_interactive.__main__ import main

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


def test_the_image_is_not_overwritten(arguments):
    with open("a.png", "rb") as file:
        before = file.read()
    with pytest.raises(SystemExit, match="a.png is the image that was segmented"):
        main([*arguments, "--click", "5,5", "--output", "a.png"])
    with open("a.png", "rb") as file:
        assert file.read() == before


@pytest.mark.parametrize("case", INVALID)
def test_invalid_input_ends_with_one_line(arguments, case):
    options, message = INVALID[case]
    with pytest.raises(SystemExit, match=message) as caught:
        main([*arguments, *options])
    assert "\n" not in str(caught.value)
