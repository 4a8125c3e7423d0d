"""Vocabularies as JSON: the class names that a model was trained with, in a file beside it."""

from __future__ import annotations

import json
from typing import Any

from hipie.errors import InputError
from hipie.vocabularies.vocabulary import Vocabulary, VocabularyClass

# Name of the file in a model's folder.
VOCABULARY_FILE = "vocabulary.json"
MAX_CLASSES = 100_000


def vocabulary_to_json(vocabulary: Vocabulary) -> str:
    """Return a vocabulary as JSON: `{"classes": [{"name", "kind", "synonyms", "whole"}, ...]}`."""
    classes = []
    for entry in vocabulary.classes:
        fields: dict[str, Any] = {"name": entry.name, "kind": entry.kind}
        if entry.synonyms:
            fields["synonyms"] = list(entry.synonyms)
        if entry.whole is not None:
            fields["whole"] = entry.whole
        classes.append(fields)
    return json.dumps({"classes": classes}, indent=1, ensure_ascii=False) + "\n"


def vocabulary_from_json(text: str, origin: str) -> Vocabulary:
    """Read what `vocabulary_to_json` wrote.

    Args:
        text: the JSON.
        origin: file name, for messages.

    Raises:
        InputError: naming the file and what is wrong in it.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        raise InputError(f"{origin} is not valid JSON{where}") from error
    entries = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(entries, list) or len(entries) > MAX_CLASSES:
        raise InputError(f'{origin} is no vocabulary: it needs a list "classes"')
    try:
        return Vocabulary(tuple(_read_class(entry) for entry in entries))
    except InputError as error:
        raise InputError(f"{origin}: {error}") from error


def _read_class(entry: Any) -> VocabularyClass:
    if not isinstance(entry, dict):
        raise InputError('every class needs "name" and "kind"')
    name, kind = entry.get("name"), entry.get("kind")
    synonyms, whole = entry.get("synonyms", ()), entry.get("whole")
    if not isinstance(name, str) or not isinstance(kind, str):
        raise InputError('every class needs "name" and "kind", which are texts')
    if not isinstance(synonyms, list | tuple) or not isinstance(whole, str | None):
        raise InputError(f'the class "{name}" has "synonyms" or a "whole" of another type')
    return VocabularyClass(name, kind, tuple(synonyms), whole)
