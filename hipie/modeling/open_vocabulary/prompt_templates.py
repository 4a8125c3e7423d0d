"""Expressions that a class name is put into before CLIP reads it."""

from __future__ import annotations

from collections.abc import Sequence

import open_clip

from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown

# What HIPIE's evaluations use.
ONE = ("a photo of a {}.",)
SETS = {
    "one": ONE,
    "simple": tuple(make("{}") for make in open_clip.SIMPLE_IMAGENET_TEMPLATES),
    "imagenet": tuple(make("{}") for make in open_clip.OPENAI_IMAGENET_TEMPLATES),
    "none": ("{}",),
}


def templates(chosen: str | Sequence[str] = "one") -> tuple[str, ...]:
    """Expressions with `{}` where the name goes.

    Args:
        chosen: "one" (`a photo of a {}.`), "simple" (CLIP's 7 best), "imagenet" (all 80 of
            CLIP's), "none" (the bare name), or expressions of one's own.

    Raises:
        OpenVocabularyError: for an unknown set, no expression at all, or one without `{}`.
    """
    if isinstance(chosen, str):
        if chosen not in SETS:
            raise unknown("set of prompt templates", chosen, SETS)
        return SETS[chosen]
    if not chosen:
        raise OpenVocabularyError("there has to be at least one prompt template")
    for one in chosen:
        if one.count("{}") != 1:
            raise OpenVocabularyError(f'the prompt template "{one}" needs one {{}} for the name')
    return tuple(chosen)
