"""What cannot be used: one sentence that names it, and near names where there are some."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OpenVocabularyError(ValueError):
    """A model, image, mask or word that CLIP or SAM cannot take; the message says which."""


def missing_package(what: str, package: str, extra: str) -> ModuleNotFoundError:
    """The error for a package that only some of this project needs.

    Args:
        what: "CLIP", "SAM".
        package: the name that it is installed by.
        extra: of this package, that brings it.
    """
    return ModuleNotFoundError(
        f'{what} needs the package {package}: pip install {package} (or "hipie[{extra}]")'
    )


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> OpenVocabularyError:
    """The error for a name that nothing has.

    Args:
        kind: "CLIP model", "SAM model", ...
        name: as it was given.
        known: what would have been right; the nearest ones are named, or all of a few.
        hint: what else could have been given.
    """
    names = sorted(known)
    lower = {one.lower(): one for one in names}
    found = difflib.get_close_matches(name.lower(), lower, 3, 0.5)
    near = [lower[one] for one in found] or (names if len(names) <= 8 else [])
    said = f'there is no {kind} "{name}"'
    if near:
        said += f"; near ones are {', '.join(near)}"
    return OpenVocabularyError(said + (f" ({hint})" if hint else ""))
