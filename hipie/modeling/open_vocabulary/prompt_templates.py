"""Prompt templates of class names for CLIP."""

from __future__ import annotations

from collections.abc import Sequence

from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name

TEMPLATE_SETS = ("one", "simple", "imagenet", "vild", "none")
VILD_SIZES = ("small", "medium", "large")


def prompt_templates(templates: str | Sequence[str] = "one") -> tuple[str, ...]:
    """Resolve prompt templates, strings with `{}` in place of the class name.

    Args:
        templates: "one" (`a photo of a {}.`), "simple" (CLIP's 7 best), "imagenet" (all 80 of
            CLIP's), "vild" (the 14 of ViLD, Gu et al., ICLR 2022, which FC-CLIP and OVSeg use),
            "none" (the bare name), or a list of templates.

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
    if name == "vild":
        return _vild_templates()
    import open_clip

    simple, imagenet = open_clip.SIMPLE_IMAGENET_TEMPLATES, open_clip.OPENAI_IMAGENET_TEMPLATES
    return tuple(template("{}") for template in (simple if name == "simple" else imagenet))


def _vild_templates() -> tuple[str, ...]:
    """ViLD's templates: five of the bare name, and three each with a word of its size."""
    with_size = (
        pattern.replace("SIZE", size)
        for pattern in (
            "a photo of a SIZE {}.",
            "This is a photo of a SIZE {}.",
            "There is a SIZE {} in the scene.",
        )
        for size in VILD_SIZES
    )
    return (
        "a photo of a {}.",
        "This is a photo of a {}",
        *(f"There is {article} {{}} in the scene" for article in ("a", "the")),
        "a photo of a {} in the scene",
        *with_size,
    )
