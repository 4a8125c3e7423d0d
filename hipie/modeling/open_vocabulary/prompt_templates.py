"""Prompt templates of class names for CLIP."""

from __future__ import annotations

from collections.abc import Sequence

from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name

TEMPLATE_SETS = ("one", "simple", "imagenet", "none")


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
        return _template_set(templates)
    if not templates:
        raise OpenVocabularyError("there has to be at least one prompt template")
    for template in templates:
        if template.count("{}") != 1:
            raise OpenVocabularyError(
                f'the prompt template "{template}" needs one {{}} for the class name'
            )
    return tuple(templates)


def _template_set(name: str) -> tuple[str, ...]:
    """Return the templates of an entry of `TEMPLATE_SETS`."""
    if name == "one":  # of HIPIE's evaluations
        return ("a photo of a {}.",)
    if name == "none":
        return ("{}",)
    import open_clip

    simple, imagenet = open_clip.SIMPLE_IMAGENET_TEMPLATES, open_clip.OPENAI_IMAGENET_TEMPLATES
    return tuple(template("{}") for template in (simple if name == "simple" else imagenet))
