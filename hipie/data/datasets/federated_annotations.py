"""What LVIS and PACO say of every image: which classes are certainly absent, which incomplete.

Their classes are not all looked for in every image ("federated" annotation): a class that is in
neither list and has no object may be there or not. Objects365 is annotated exhaustively and has no
such lists.
"""

from __future__ import annotations

from typing import Any

from hipie.data.io.validation import INTEGER_LIST, DatasetError, check_optional

LISTS = ("neg_category_ids", "not_exhaustive_category_ids")


def federated_lists(
    where: str, image: dict[str, Any], contiguous: dict[int, int]
) -> dict[str, list[int]]:
    """The lists that an image's entry has, as class indices.

    Args:
        where: the file and the image, for errors.
        image: an entry of COCO's `images`.
        contiguous: category id -> class index.

    Raises:
        DatasetError: if a list holds something else than known categories.
    """
    check_optional(where, image, dict.fromkeys(LISTS, INTEGER_LIST))
    found = {}
    for key in LISTS:
        if key in image:
            unknown = [number for number in image[key] if number not in contiguous]
            if unknown:
                raise DatasetError(f'{where} has the unknown category {unknown[0]} in "{key}"')
            found[key] = [contiguous[number] for number in image[key]]
    return found
