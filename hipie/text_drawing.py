"""Draw texts of any script into images, from the fonts that are found at run time.

DejaVu Sans, which Matplotlib brings, has Latin, Greek, Cyrillic, Hebrew and Arabic letters. Letters
that it lacks are taken from the packages of the `fonts` extra, then from the system's fonts. A text
is laid out by Matplotlib's `FT2Font`, which passes it to Raqm: joined letters, marks and
bidirectional order are right across all fonts of the text.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

CJK_FONT_PACKAGE = "noto-cjk-sans-otc"
FONT_PACKAGE = "manimgx-fonts"
# Modules of packages that hold font files, in order of preference. The variable font of
# `manimgx_fonts_cjk` comes last, since its default weight is thin.
FONT_MODULES = ("manimgx_fonts", "noto_cjk_sans_otc", "manimgx_fonts_cjk")
FONT_MODULE_PREFIX = "fontpkg_noto_sans"
FONT_ENDINGS = {".ttf", ".otf", ".ttc"}
# First words of Unicode's letter names, by the package whose fonts have the letters.
CJK_SCRIPTS = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "FULLWIDTH", "IDEOGRAPHIC")
PACKAGED_SCRIPTS = (
    *("ARABIC", "ARMENIAN", "BENGALI", "CYRILLIC", "DEVANAGARI", "ETHIOPIC", "GEORGIAN", "GREEK"),
    *("GUJARATI", "GURMUKHI", "HEBREW", "KANNADA", "KHMER", "LAO", "LATIN", "MALAYALAM"),
    *("MYANMAR", "ORIYA", "SINHALA", "TAMIL", "TELUGU", "THAI"),
)
# Styles that are taken only where no other font has a letter.
UNUSUAL_STYLES = ("bold", "black", "italic", "oblique", "light", "thin", "mono", "condensed")
UNNAMED = "UNNAMED"  # script of private and unassigned code points
ELLIPSIS = "…"
ZERO_WIDTH_JOINER = "\u200d"
DPI_OF_PIXELS = 72


@dataclass(frozen=True)
class TextImage:
    """A line of text as an image.

    Attributes:
        coverage: [h, w] uint8, 255 inside the letters.
        ascent: rows above the base line.
    """

    coverage: NDArray[np.uint8]
    ascent: int

    @property
    def descent(self) -> int:
        """Rows below the base line."""
        return self.coverage.shape[0] - self.ascent


def render_text(text: str, size: int) -> TextImage:
    """Render one line of text in visual order.

    Args:
        text: in logical order; a first strong letter of a right-to-left script makes the line
            run from right to left.
        size: of the font in pixels.
    """
    font = _laid_out(text, size)
    font.draw_glyphs_to_bitmap(antialiased=True)
    coverage = np.array(font.get_image(), np.uint8)
    descent = int(np.ceil(font.get_descent() / 64))
    return TextImage(coverage, max(coverage.shape[0] - descent, 0))


def text_width(text: str, size: int) -> int:
    """Width of a line of text in pixels."""
    return int(np.ceil(_laid_out(text, size).get_width_height()[0] / 64))


def wrap_text(text: str, size: int, width: int, max_lines: int | None = None) -> list[str]:
    """Break a text into lines.

    Lines are broken at spaces, and inside words that are wider than a line, as those of scripts
    without spaces, before any letter that is not joined to the one before.

    Args:
        text: whose white space counts as one space each.
        size: of the font in pixels.
        width: of a line in pixels.
        max_lines: further lines are left out, and the last one ends in an ellipsis.
    """
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        elif text_width(word, size) <= width:
            lines.append(word)
        else:
            lines += _break_word(word, size, width)
        if max_lines is not None and len(lines) > max_lines:
            return [*lines[: max_lines - 1], f"{lines[max_lines - 1]}{ELLIPSIS}"]
    return lines


def shorten_text(text: str, size: int, width: int) -> str:
    """A text that is no wider than a limit: the end of a longer one becomes an ellipsis.

    Args:
        text: one line.
        size: of the font in pixels.
        width: the limit in pixels; a first letter and the ellipsis are kept in any case.
    """
    if text_width(text, size) <= width:
        return text
    clusters = _clusters(text)
    few, many = 1, len(clusters)
    while many - few > 1:
        middle = (few + many) // 2
        kept = "".join(clusters[:middle]).rstrip() + ELLIPSIS
        few, many = (middle, many) if text_width(kept, size) <= width else (few, middle)
    return "".join(clusters[:few]).rstrip() + ELLIPSIS


def missing_letters(text: str) -> str:
    """The distinct letters of a text that no font has, in order of appearance."""
    return "".join(dict.fromkeys(_fonts_of(_visible(text))[1]))


def replace_missing(text: str, replacement: str) -> str:
    """Replace every run of letters that no font has, with the spaces and marks in it.

    Args:
        text: the text.
        replacement: taken once for each run.
    """
    missing = set(missing_letters(text))
    replaced = ""
    end = 0
    for letter in text:
        if letter in missing:
            # What is between two missing letters, such as a space, is not drawn either.
            if not replaced[:end].endswith(replacement) or replaced[end:].strip():
                replaced += replacement
            else:
                replaced = replaced[:end]
            end = len(replaced)
        elif not (end and end == len(replaced) and _joins_previous(letter)):
            replaced += letter
    return replaced


def font_advice(letters: str) -> str:
    """One line that names the font packages that have letters.

    Args:
        letters: that no font has, as `missing_letters` returns them; at least one.
    """
    packages = dict.fromkeys(_package_of(letter) for letter in letters)
    known = [package for package in packages if package is not None]
    shown = letters if len(letters) <= 8 else f"{letters[:8]}{ELLIPSIS}"
    advice = f'no font has the letters "{shown}" ({_code_points(letters)})'
    if known:
        advice += f'; "pip install {" ".join(known)}" brings them'
    if None in packages:
        scripts = {_script(letter).title() for letter in letters if not _package_of(letter)}
        named = ", ".join(sorted(scripts - {UNNAMED.title()}))
        advice += f"; install a font with {named} letters on your system" if named else ""
    return advice


@lru_cache(maxsize=1)
def packaged_fonts() -> tuple[str, ...]:
    """Paths of the font files in installed font packages."""
    modules = [*FONT_MODULES, *_modules_with_prefix(FONT_MODULE_PREFIX)]
    files: list[str] = []
    for module in modules:
        spec = importlib.util.find_spec(module)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            files += _by_preference(
                str(file) for file in Path(folder).rglob("*") if file.suffix in FONT_ENDINGS
            )
    return tuple(files)


@lru_cache(maxsize=1)
def system_fonts() -> tuple[str, ...]:
    """Paths of the font files that the system lists."""
    from matplotlib.font_manager import findSystemFonts

    files = (file for file in findSystemFonts() if Path(file).suffix.lower() in FONT_ENDINGS)
    # Its glyphs are frames with a script's name.
    return tuple(_by_preference(file for file in files if "lastresort" not in file.lower()))


def _modules_with_prefix(prefix: str) -> list[str]:
    names = (module.name for module in pkgutil.iter_modules())
    return sorted(name for name in names if name.startswith(prefix))


def _by_preference(files: Iterable[str]) -> list[str]:
    def key(file: str) -> tuple[bool, str]:
        name = Path(file).name.lower()
        return any(style in name for style in UNUSUAL_STYLES), name

    return sorted(files, key=key)


def _laid_out(text: str, size: int) -> FT2Font:
    """Matplotlib's font object, which holds the layout of a text until the next call."""
    # Imported at first use: it may list the system's fonts, which takes seconds.
    from matplotlib.font_manager import get_font
    from matplotlib.ft2font import LoadFlags

    visible = _visible(text)
    fonts, _ = _fonts_of(visible)
    font = get_font([_default_font(), *fonts])
    font.set_size(size, DPI_OF_PIXELS)
    font.set_text(visible, 0, flags=LoadFlags.TARGET_LIGHT)
    return font


@cache
def _default_font() -> str:
    from matplotlib import get_data_path

    return str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf")


def _visible(text: str) -> str:
    """A text without variation selectors, and with spaces for control characters."""
    return "".join(
        " " if unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") else letter
        for letter in text
        if not "\ufe00" <= letter <= "\ufe0f" and not "\U000e0100" <= letter <= "\U000e01ef"
    )


def _fonts_of(text: str) -> tuple[tuple[str, ...], str]:
    """Fonts for the letters that the default font lacks, and the letters that no font has."""
    lacking = {letter for letter in text if not _has(_default_font(), letter) and _needs(letter)}
    if not lacking:
        return (), ""
    chosen = _choose_fonts("".join(sorted(lacking)), packaged_fonts, system_fonts)
    fonts, missing = chosen
    faces = tuple(_face_for(file, text) for file in fonts)
    return faces, "".join(letter for letter in text if letter in missing)


def _needs(letter: str) -> bool:
    """Whether a letter is drawn: joiners, direction marks and other formats are not."""
    return unicodedata.category(letter) not in ("Cf", "Zs")


@lru_cache(maxsize=512)
def _choose_fonts(letters: str, *tiers: object) -> tuple[tuple[str, ...], frozenset[str]]:
    """Few font files that have the letters, and the letters that none has.

    Args:
        letters: sorted.
        *tiers: functions that list files; a later one is called for letters that remain.
    """
    remaining, chosen = set(letters), list[str]()
    for tier in tiers:
        files: Sequence[str] = tier() if remaining and callable(tier) else ()
        available = [{letter for letter in remaining if _has(file, letter)} for file in files]
        while remaining and available:
            best = max(range(len(files)), key=lambda k: len(available[k] & remaining))
            if not available[best] & remaining:
                break
            chosen.append(files[best])
            remaining -= available[best]
    return tuple(chosen), frozenset(remaining)


def _has(file: str, letter: str) -> bool:
    font = _opened(file)
    return font is not None and font.get_char_index(ord(letter)) != 0


@lru_cache(maxsize=128)
def _opened(file: str, face: int = 0) -> FT2Font | None:
    """A font, opened to look up letters; None for one that cannot be scaled or read."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file, face_index=face)
    except (OSError, RuntimeError, ValueError):
        return None
    return font if font.scalable else None


def _face_for(file: str, text: str) -> str:
    """The face of a collection of Chinese, Japanese and Korean fonts that fits a text's letters."""
    from matplotlib.font_manager import FontPath

    first = _opened(file)
    if first is None or first.num_faces == 1 or "CJK" not in first.family_name:
        return file
    scripts = {_script(letter) for letter in text}
    japanese = not scripts.isdisjoint(("HIRAGANA", "KATAKANA"))
    ending = " JP" if japanese else " KR" if "HANGUL" in scripts else " SC"
    for index in range(first.num_faces):
        face = _opened(file, index)
        if face is not None and face.family_name.endswith(ending):
            return FontPath(file, index)
    return file


def _break_word(word: str, size: int, width: int) -> list[str]:
    lines = [""]
    for cluster in _clusters(word):
        if lines[-1] and text_width(lines[-1] + cluster, size) > width:
            lines.append("")
        lines[-1] += cluster
    return lines


def _clusters(word: str) -> list[str]:
    """Split a word before every letter that is not joined to the one before."""
    clusters: list[str] = []
    for letter in word:
        if clusters and (_joins_previous(letter) or clusters[-1].endswith(ZERO_WIDTH_JOINER)):
            clusters[-1] += letter
        else:
            clusters.append(letter)
    return clusters


def _joins_previous(letter: str) -> bool:
    return unicodedata.category(letter) in ("Mn", "Mc", "Me", "Cf", "Sk")


def _script(letter: str) -> str:
    """The first word of a letter's Unicode name, "EMOJI" for symbols."""
    if unicodedata.category(letter) in ("So", "Sk"):
        return "EMOJI"
    return unicodedata.name(letter, UNNAMED).split()[0].split("-")[0]


def _package_of(letter: str) -> str | None:
    script = _script(letter)
    if script in CJK_SCRIPTS:
        return CJK_FONT_PACKAGE
    return FONT_PACKAGE if script in PACKAGED_SCRIPTS or script == "EMOJI" else None


def _code_points(letters: str) -> str:
    points = [f"U+{ord(letter):04X}" for letter in letters[:3]]
    return ", ".join(points) + (f" and {len(letters) - 3} more" if len(letters) > 3 else "")
