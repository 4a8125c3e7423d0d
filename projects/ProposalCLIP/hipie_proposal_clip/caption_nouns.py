"""Nouns of captions, by a list of nouns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hipie.errors import InputError
from hipie.vocabularies.vocabulary import name_key

WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
IRREGULAR = {
    "men": "man",
    "women": "woman",
    "people": "person",
    "children": "child",
    "feet": "foot",
    "teeth": "tooth",
    "geese": "goose",
    "mice": "mouse",
    "knives": "knife",
    "leaves": "leaf",
    "shelves": "shelf",
    "loaves": "loaf",
    "halves": "half",
    "wolves": "wolf",
}


class NounFinder:
    """The nouns of a list that occur in a caption, the longest first at every word.

    Plurals count as their singular. Case does not count.

    Args:
        nouns: names of one or several words.

    Raises:
        InputError: if there is none.
    """

    def __init__(self, nouns: Iterable[str]) -> None:
        self.nouns: dict[tuple[str, ...], str] = {}
        for noun in nouns:
            words = tuple(WORD.findall(name_key(noun)))
            if words:
                self.nouns.setdefault(words, " ".join(words))
        if not self.nouns:
            raise InputError("a list of nouns needs at least one noun")
        self.longest = max(map(len, self.nouns))

    @classmethod
    def from_file(cls, path: str | Path) -> NounFinder:
        """Read a text file with one noun a line.

        Raises:
            InputError: if it cannot be read, or has no noun.
        """
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: the list of nouns could not be read ({error})") from error
        try:
            return cls(lines)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def __call__(self, caption: str) -> list[str]:
        """Return the nouns of a caption in their order, each once."""
        words = WORD.findall(caption.lower())
        nouns: list[str] = []
        position = 0
        while position < len(words):
            for length in range(min(self.longest, len(words) - position), 0, -1):
                noun = self._noun(tuple(words[position : position + length]))
                if noun:
                    nouns.append(noun)
                    position += length
                    break
            else:
                position += 1
        return list(dict.fromkeys(nouns))

    def _noun(self, words: tuple[str, ...]) -> str | None:
        for last in _singulars(words[-1]):
            noun = self.nouns.get((*words[:-1], last))
            if noun:
                return noun
        return None


def _singulars(word: str) -> list[str]:
    """The word, and what it may be the plural of."""
    forms = [word]
    if word in IRREGULAR:
        forms.append(IRREGULAR[word])
    if word.endswith("ies"):
        forms.append(word[:-3] + "y")
    if word.endswith("es"):
        forms.append(word[:-2])
    if word.endswith("s") and not word.endswith("ss"):
        forms.append(word[:-1])
    return forms
