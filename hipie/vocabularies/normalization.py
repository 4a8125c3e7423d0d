"""How class names are written before a text encoder reads them."""

from __future__ import annotations


def clean_class_name(name: str) -> str:
    """A class name as it stands in a caption.

    What lies between the first "(" and the last ")" goes, underscores become spaces, and two
    spaces become one, once. Case and hyphens stay.
    """
    first, last = name.find("("), name.rfind(")")
    if 0 <= first < last:
        name = name[:first] + name[last + 1 :]
    return name.replace("_", " ").replace("  ", " ")
