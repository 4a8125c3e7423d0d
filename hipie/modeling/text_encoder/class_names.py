"""Class names as a text encoder sees them: unknown letters, names it cannot tell apart."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING

from hipie.vocabularies.vocabulary import Vocabulary, VocabularyError, clean_class_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_LISTED = 5
MULTILINGUAL = "bert-base-multilingual-cased"
# First words of the Unicode names of letters, for scripts that the multilingual BERT was trained
# with (github.com/google-research/bert, multilingual.md), and how they are called here.
MULTILINGUAL_SCRIPTS = {
    **{name: name.capitalize() for name in ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "HEBREW")},
    **{name: name.capitalize() for name in ("ARABIC", "DEVANAGARI", "BENGALI", "GURMUKHI")},
    **{name: name.capitalize() for name in ("GUJARATI", "TAMIL", "TELUGU", "KANNADA")},
    **{name: name.capitalize() for name in ("MALAYALAM", "THAI", "MYANMAR", "GEORGIAN")},
    "HANGUL": "Korean",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "CJK": "Chinese characters",
}


def check_class_names(
    vocabulary: Vocabulary, tokenizer: PreTrainedTokenizerBase, source: str
) -> list[str]:
    """Find class names that a text encoder does not know or cannot tell apart.

    Args:
        vocabulary: the classes.
        tokenizer: of the text encoder.
        source: name of the text encoder, for messages.

    Returns:
        Sentences about names with some unknown letters and about names with equal tokens.

    Raises:
        VocabularyError: if a name has no known letter at all; says which encoders know its script.
    """
    tokens = {name: tuple(tokenizer.tokenize(clean_class_name(name))) for name in vocabulary.names}
    unknown_token = tokenizer.unk_token
    unknown = [name for name, parts in tokens.items() if all(p == unknown_token for p in parts)]
    if unknown:
        raise VocabularyError(
            f"the text encoder {source} knows no letter of the class name {_listed(unknown)}: its "
            f"tokens are {_shown(tokens[unknown[0]])}; {_advice(unknown[0])}"
        )
    warnings = []
    partly = [
        f'"{name}" ({_shown(parts)})' for name, parts in tokens.items() if unknown_token in parts
    ]
    if partly:
        warnings.append(
            f"the text encoder {source} does not know some letters of {len(partly)} class names, "
            f"which then look alike: {_shortened(partly)}"
        )
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, parts in tokens.items():
        groups[parts].append(name)
    for parts, names in groups.items():
        if len(names) > 1:
            warnings.append(
                f"the text encoder {source} cannot tell the class names {_listed(names)} apart: "
                f"the tokens of all are {_shown(parts)}"
            )
    return warnings


def _advice(name: str) -> str:
    """Say which text encoders know the script of a name."""
    letter = next(character for character in name if character.isalpha() or character.isalnum())
    script = unicodedata.name(letter, "UNKNOWN").split()[0]
    if script not in MULTILINGUAL_SCRIPTS:
        return "no text encoder that is known here has this script; use English names"
    encoders = f"{MULTILINGUAL} knows {MULTILINGUAL_SCRIPTS[script]}"
    if script == "CJK":
        encoders += ", and so does bert-base-chinese"
    return f"{encoders} (MODEL.HIPIE.TEXT.SOURCE, with training); otherwise use English names"


def _shown(tokens: tuple[str, ...]) -> str:
    return " ".join(tokens) or "none"


def _listed(names: list[str]) -> str:
    return _shortened([f'"{name}"' for name in names])


def _shortened(texts: list[str]) -> str:
    more = len(texts) - MAX_LISTED
    return ", ".join(texts[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
