"""Text in drawings: letters of every script, bidirectional order, letters that no font has."""

from __future__ import annotations

import importlib.util
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont, features

from hipie import text_drawing
from hipie.text_drawing import (
    CJK_FONT_PACKAGE,
    FONT_PACKAGE,
    font_advice,
    missing_letters,
    render_text,
    replace_missing,
    shorten_text,
    text_width,
    wrap_text,
)

DEJAVU = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
SIZE = 40
NEEDS_RAQM = pytest.mark.skipif(not features.check("raqm"), reason="Pillow without Raqm")
NEEDS_FONTS = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("manimgx_fonts", "noto_cjk_sans_otc"))),
    reason="the `fonts` extra is not installed",
)


@pytest.fixture
def no_other_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fonts besides DejaVu Sans."""
    monkeypatch.setattr(text_drawing, "packaged_fonts", lambda: ())
    monkeypatch.setattr(text_drawing, "system_fonts", lambda: ())


def columns(coverage: np.ndarray) -> np.ndarray:
    """Ink of each column, from the first to the last one with ink, at 200 columns."""
    ink = coverage.astype(float).sum(0)
    used = np.flatnonzero(ink)
    ink = np.convolve(ink[used[0] : used[-1] + 1], np.ones(5), "same")
    return np.interp(np.linspace(0, len(ink) - 1, 200), np.arange(len(ink)), ink)


def pillow(text: str, direction: str | None = None) -> np.ndarray:
    """Coverage [h, w] of a text that Pillow lays out with Raqm."""
    font = ImageFont.truetype(DEJAVU, SIZE, layout_engine=ImageFont.Layout.RAQM)
    image = Image.new("L", (round(font.getlength(text)) + 40, 3 * SIZE))
    ImageDraw.Draw(image).text((20, SIZE), text, fill=255, font=font, direction=direction)
    return np.asarray(image)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(columns(first), columns(second))[0, 1])


@NEEDS_RAQM
@pytest.mark.parametrize(
    "text",
    ["größe", "Straße Ünïcödé 0.92", "σκύλος", "собака", "כלב גדול 0.92", "قطة على السرير 0.92"]
    + ["abc כלב xyz", "كلب brown dog", "red (כלב) 12"],
)
def test_letters_and_order_are_those_of_raqm(text: str) -> None:
    drawn = render_text(text, SIZE).coverage
    assert correlation(drawn, pillow(text)) > 0.95


@NEEDS_RAQM
@pytest.mark.parametrize("text", ["כלב גדול 0.92", "abc כלבים xyz"])
def test_right_to_left_order_differs_from_the_order_of_storage(text: str) -> None:
    reversed_letters = "\u202d" + text + "\u202c"
    assert correlation(render_text(text, SIZE).coverage, pillow(reversed_letters)) < 0.8


@pytest.mark.parametrize("letter", "ößÜïßαΩжЯאبé")
def test_letters_of_the_default_font_are_not_the_missing_glyph(
    letter: str, no_other_fonts: None
) -> None:
    missing = pillow_box()
    drawn = render_text(letter, SIZE).coverage
    assert drawn.any() and not missing_letters(letter)
    assert drawn.shape != missing.shape or abs(drawn.astype(int) - missing).mean() > 20


def pillow_box() -> np.ndarray:
    """The glyph of DejaVu Sans for a letter that it lacks."""
    with pytest.warns(UserWarning, match="missing"):
        return render_text("狗", SIZE).coverage


@NEEDS_FONTS
@pytest.mark.parametrize(
    "text", ["狗", "白い犬", "고양이", "कुत्ता", "หมา", "🐕", "নাম", "நாய்", "ተኩላ", "قطة 猫 כלב"]
)
def test_other_scripts_are_drawn_from_the_packages(text: str, recwarn) -> None:
    assert not missing_letters(text)
    assert render_text(text, SIZE).coverage.max() > 200
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


@NEEDS_FONTS
def test_order_holds_across_fonts() -> None:
    """Three scripts from three fonts: the first letters of a right-to-left text are right."""
    whole = render_text("כלב 猫", SIZE).coverage
    hebrew = render_text("כלב", SIZE).coverage
    height = min(len(whole), len(hebrew))
    right = whole[-height:, -hebrew.shape[1] :]
    assert correlation(right, hebrew[-height:]) > 0.9


@NEEDS_FONTS
def test_han_letters_take_the_form_of_their_language() -> None:
    alone, with_kana = (render_text(text, SIZE).coverage for text in ("骨の", "骨"))
    width = with_kana.shape[1]
    assert not np.array_equal(alone[-30:, :width], with_kana[-30:])


def test_missing_letters_are_named_and_replaced(no_other_fonts: None) -> None:
    assert missing_letters("dog 狗 größe 白い 狗") == "狗白い"
    assert replace_missing("dog 狗 白い 0.92", "[3]") == "dog [3] 0.92"
    assert replace_missing("狗", "[1]") == "[1]"
    assert replace_missing("狗 a 犬", "[1]") == "[1] a [1]"
    assert replace_missing("größe", "[1]") == "größe"
    assert replace_missing("no\u00adde 👍🏽\ufe0f ok", "[2]") == "no\u00adde [2] ok"


@pytest.mark.parametrize(
    ("letters", "package"),
    [("狗", CJK_FONT_PACKAGE), ("の", CJK_FONT_PACKAGE), ("개", CJK_FONT_PACKAGE)]
    + [(letter, FONT_PACKAGE) for letter in ("क", "ห", "🐕", "ተ", "ა")],
)
def test_advice_names_the_package(letters: str, package: str) -> None:
    advice = font_advice(letters)
    assert f'"pip install {package}"' in advice and "\n" not in advice


def test_advice_for_a_script_without_package_names_the_script() -> None:
    advice = font_advice("狗ག")
    assert CJK_FONT_PACKAGE in advice and "Tibetan" in advice


def test_advice_for_a_private_letter_names_its_code_point() -> None:
    assert font_advice("\ue000") == 'no font has the letters "\ue000" (U+E000)'


@NEEDS_FONTS
def test_packages_have_the_scripts_that_the_advice_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_drawing, "system_fonts", lambda: ())
    letters: dict[str, list[str]] = {}
    for letter in map(chr, range(0x10000)):
        if unicodedata.category(letter) in ("Lo", "Ll", "Lu"):
            letters.setdefault(text_drawing._script(letter), []).append(letter)
    scripts = [*text_drawing.PACKAGED_SCRIPTS, *text_drawing.CJK_SCRIPTS]
    shares = {
        script: len(missing_letters("".join(letters[script]))) / len(letters[script])
        for script in scripts
        if script in letters
    }
    assert len(shares) > 25
    assert not {script: share for script, share in shares.items() if share > 0.35}


def test_fonts_are_found_in_installed_packages(tmp_path: Path, monkeypatch) -> None:
    package = tmp_path / "fontpkg_noto_sans_test"
    (package / "files").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "files/Bold.ttf").touch()
    (package / "files/Regular.ttf").write_text("not a font")
    monkeypatch.syspath_prepend(tmp_path)
    files = text_drawing.packaged_fonts.__wrapped__()
    assert [Path(file).name for file in files if "fontpkg_noto_sans_test" in file] == [
        "Regular.ttf",
        "Bold.ttf",
    ]
    monkeypatch.setattr(text_drawing, "packaged_fonts", lambda: files)
    assert not missing_letters("größe")
    assert missing_letters("\U0001303f") in ("", "\U0001303f")


def test_lines_fit_and_lose_nothing() -> None:
    text = "a ball 人民共和国的长名字没有任何空格 " + "x" * 90
    lines = wrap_text(text, 12, 150)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert len(lines) > 4


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="abäß Ωжכב لا.(12)\u0301\u200d", max_size=40), st.integers(60, 200))
def test_every_line_is_within_the_width(text: str, width: int) -> None:
    lines = wrap_text(text, 12, width)
    assert "".join(lines).replace(" ", "") == "".join(text.split())
    for line in lines:
        assert text_width(line, 12) <= width


def test_marks_stay_with_their_letter() -> None:
    assert text_drawing._clusters("e\u0301a\u0300b") == ["e\u0301", "a\u0300", "b"]
    assert text_drawing._clusters("a\u200db") == ["a\u200db"]


def test_long_texts_end_in_an_ellipsis() -> None:
    lines = wrap_text("word " * 1000, 12, 200, max_lines=3)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert not wrap_text("  \n", 12, 100)
    assert render_text("", 12).coverage.sum() == 0


@given(st.text("abcÄß é,כלבق", max_size=40), st.integers(0, 300))
@settings(max_examples=50, deadline=None)
def test_shortened_texts_fit_and_begin_as_the_text(text: str, width: int) -> None:
    short = shorten_text(text, 12, width)
    if text_width(text, 12) <= width:
        assert short == text
    else:
        kept = short.removesuffix("…")
        assert short.endswith("…") and text.startswith(kept)
        assert text_width(short, 12) <= width or len(text_drawing._clusters(text)[0]) >= len(kept)
