"""Errors about models, images, masks and prompts, with suggestions of similar names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from hipie.errors import InputError


class OpenVocabularyError(InputError):
    """A model, image, mask or prompt that CLIP or SAM cannot process; the message names it."""


def missing_package(component: str, package: str, extra: str) -> ModuleNotFoundError:
    """Build the error for an optional package that is not installed.

    Args:
        component: that needs the package, such as "CLIP" or "SAM".
        package: name on the package index.
        extra: optional dependency group of this package that includes it.
    """
    return ModuleNotFoundError(
        f'{component} needs the package {package}: pip install {package} (or "hipie[{extra}]")'
    )


def unknown_name(
    kind: str, name: str, valid_names: Iterable[str], hint: str = ""
) -> OpenVocabularyError:
    """Build the error for an unknown name.

    Args:
        kind: "CLIP model", "SAM model", ...
        name: the unknown name.
        valid_names: valid names; the most similar ones are suggested, or all of a few.
        hint: other values that would have been valid.
    """
    names = sorted(valid_names)
    by_lower = {candidate.lower(): candidate for candidate in names}
    matches = difflib.get_close_matches(name.lower(), by_lower, 3, 0.5)
    similar = [by_lower[match] for match in matches] or (names if len(names) <= 8 else [])
    message = f'there is no {kind} "{name}"'
    if similar:
        message += f"; similar names are {', '.join(similar)}"
    return OpenVocabularyError(message + (f" ({hint})" if hint else ""))
