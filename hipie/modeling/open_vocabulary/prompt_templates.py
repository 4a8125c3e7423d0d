"""Prompt templates of class names for CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import open_clip

from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name

TEMPLATE_SETS = {
    # The template of HIPIE's evaluations.
    "one": ("a photo of a {}.",),
    "simple": tuple(template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES),
    "imagenet": tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES),
    "none": ("{}",),
}


def prompt_templates(templates: str | Sequence[str] = "one") -> tuple[str, ...]:
    """Resolve prompt templates, strings with `{}` in place of the class name.

    Args:
        templates: "one" (`a photo of a {}.`), "simple" (CLIP's 7 best), "imagenet" (all 80 of
            CLIP's), "none" (the bare name), or a list of templates.

    Raises:
        OpenVocabularyError: for an unknown set, an empty list, or a template without `{}`.
    """
    if isinstance(templates, str):
        if templates not in TEMPLATE_SETS:
            raise unknown_name("set of prompt templates", templates, TEMPLATE_SETS)
        return TEMPLATE_SETS[templates]
    if not templates:
        raise OpenVocabularyError("there has to be at least one prompt template")
    for template in templates:
        if template.count("{}") != 1:
            raise OpenVocabularyError(
                f'the prompt template "{template}" needs one {{}} for the class name'
            )
    return tuple(templates)
