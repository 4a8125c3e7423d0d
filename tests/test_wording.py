"""Vocabulary of the code: identifiers, file names and prose use the field's terms.

Every test lists all offenders at once, as `file:line: name`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RETIRED = {
    *("asked", "looked", "opinion", "opinions", "found", "covered", "said", "judge", "judges"),
    *("delivery", "deliveries", "elsewhere", "answering", "gathering", "choosing", "wanted"),
    *("sentence", "sentences", "picture", "pictures"),
}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
CPP_COMMENT_OR_STRING = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"", re.DOTALL)
CPP = {".h", ".cpp", ".cu", ".cuh"}
# Not after a dot: parameter names of former checkpoints, which converters rename.
PICTURE = re.compile(r"(?<!\.)\bpictures?\b(?![ -]?books?\b)", re.IGNORECASE)


def words(identifier: str) -> list[str]:
    """Words of an identifier: `read_COCOFile2` -> `read`, `COCO`, `File`."""
    return WORD.findall(identifier)


def retired_words(identifier: str) -> set[str]:
    """Retired words of an identifier, in lower case.

    Exempt are the picture book, the method FOUND (`FOUND`, `FoundBackground`,
    `found_background`) and exceptions of Python and of libraries (`FileNotFoundError`).
    """
    if identifier.endswith("NotFoundError") or identifier == "FOUND":
        return set()
    parts = [word.lower() for word in words(identifier)]
    retired = set()
    for position, part in enumerate(parts):
        following = parts[position + 1] if position + 1 < len(parts) else ""
        if part in RETIRED and (part, following) not in (
            ("picture", "book"),
            ("found", "background"),
        ):
            retired.add(part)
    return retired


def in_picture_book(path: Path) -> bool:
    """Whether a file is part of the picture book or of what reads it."""
    return any("picture_book" in part or "picturebook" in part for part in path.parts)


def python_identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every identifier of a Python file; strings and comments are not."""
    line = 1
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant):
            continue
        line = getattr(node, "lineno", line)
        for _, value in ast.iter_fields(node):
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    yield from ((line, name) for name in text.split("."))


def cpp_identifiers(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every identifier of a C++ or CUDA file."""
    text = path.read_text(encoding="utf-8")
    code = CPP_COMMENT_OR_STRING.sub(lambda match: "\n" * match.group().count("\n"), text)
    for number, line in enumerate(code.splitlines(), 1):
        yield from ((number, name) for name in IDENTIFIER.findall(line))


def yaml_keys(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every key of a configuration file."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if match := re.match(r"\s*([A-Z_]\w*):", line):
            yield number, match.group(1)


READERS = {".py": python_identifiers, ".yaml": yaml_keys, **dict.fromkeys(CPP, cpp_identifiers)}


def files() -> list[Path]:
    """All files of the package and of the projects."""
    return sorted(
        path
        for folder in ("hipie", "projects", "configs")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts
    )


def offenders_of(path: Path) -> list[str]:
    """Retired words in a file's name and in its identifiers."""
    exempt = {"picture", "pictures"} if in_picture_book(path) else set()
    where = path.relative_to(ROOT).as_posix()
    offenders = [
        f"{where}: file name: {part}" for part in sorted(retired_words(path.stem) - exempt)
    ]
    reader = READERS.get(path.suffix)
    names = [] if reader is None else sorted(set(reader(path)))
    offenders += [f"{where}:{line}: {name}" for line, name in names if retired_words(name) - exempt]
    return offenders


def report(offenders: list[str]) -> str:
    """Message of a failed test: all offenders, one a line."""
    return f"{len(offenders)} offenders:\n" + "\n".join(offenders)


def test_identifiers_and_file_names_have_no_retired_words():
    offenders = [line for path in files() for line in offenders_of(path)]
    assert not offenders, report(offenders)


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("asked_names", {"asked"}),
        ("SecondOpinion", {"opinion"}),
        ("JUDGE_BY", {"judge"}),
        ("perSentence", {"sentence"}),
        ("n_pictures2", {"pictures"}),
        ("found", {"found"}),
        ("FileNotFoundError", set()),
        ("FOUND", set()),
        ("FoundBackground", set()),
        ("add_PictureBook_config", set()),
        ("picturebook", set()),
        ("founder", set()),
        ("discovered", set()),
    ],
)
def test_retired_words_are_recognised(identifier, expected):
    assert retired_words(identifier) == expected


def test_every_kind_of_identifier_is_read(tmp_path):
    file = tmp_path / "some.py"
    file.write_text(
        "import a.asked as b\nfrom c import said\n"
        "def f(wanted, *, looked=1):\n    global opinion\n    return wanted.judge(covered=1)\n"
        "text = f'{found}' 'a sentence'  # a delivery\n"
    )
    retired = {name for _, name in python_identifiers(file) if retired_words(name)}
    assert retired == {
        *("asked", "said", "wanted", "looked", "opinion", "judge", "covered", "found")
    }
    source = tmp_path / "some.cpp"
    source.write_text('// asked\nint said = f("found"); /* a\n judge */ wanted\n')
    assert [pair for pair in cpp_identifiers(source) if retired_words(pair[1])] == [
        (2, "said"),
        (3, "wanted"),
    ]


def prose_files() -> list[Path]:
    """Files whose text a user reads: documents, docstrings, comments and messages."""
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("datasets/*")]
    code = [path for path in files() if path.suffix in {".py", ".md", ".yaml", *CPP}]
    return sorted(
        path
        for path in {*documents, *code}
        if path.is_file() and not in_picture_book(path) and path.name != "CHANGELOG.md"
    )


def test_prose_says_image():
    """The picture book is the only picture; the changelog lists names that are gone."""
    offenders = [
        f"{path.relative_to(ROOT).as_posix()}:{number}: {line.strip()}"
        for path in prose_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PICTURE.search(line)
    ]
    assert not offenders, report(offenders)
