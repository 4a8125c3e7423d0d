"""``python -m hipie.data.check DATASET``: what is in a data set, and what is wrong with it.

Counts images, objects and expressions, prints how often every class occurs, and lists what is empty
or broken. Exits with 1 where something is broken.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from detectron2.data.catalog import Metadata
from tqdm import tqdm

from hipie.data.annotation_view import class_names, read_annotated
from hipie.data.dataset_argument import add_arguments, open_dataset

LISTED = 10
BAR = 40


@dataclass
class Findings:
    """What a look through a data set brought to light.

    Attributes:
        images: how many were looked at.
        objects: by class name; every class of the data set has an entry.
        expressions: how many; `without_target`: how many of them mean nothing.
        bare: images without any object.
        empty: objects without a pixel, and expressions without a word.
        broken: an expression for everything that cannot be read or does not fit together.
    """

    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    expressions: int = 0
    without_target: int = 0
    bare: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def check_records(records: Iterable[dict[str, Any]], metadata: Metadata) -> Findings:
    """Read every image with its annotation.

    Args:
        records: of the catalog.
        metadata: of their data set.
    """
    found = Findings()
    vocabulary = class_names(metadata)
    found.objects.update(dict.fromkeys(vocabulary.names if vocabulary else (), 0))
    for record in records:
        found.images += 1
        try:
            image = read_annotated(record, metadata)
        except (ValueError, OSError) as error:
            found.broken.append(str(error))
            continue
        place = record["file_name"]
        if not image.segments:
            found.bare.append(place)
        for number, segment in enumerate(image.segments, 1):
            found.objects["objects" if image.expressions else segment.label] += 1
            if not segment.mask.any():
                found.empty.append(f"{place}: object {number} ({segment.label}) has no pixel")
        for one in image.expressions:
            found.expressions += 1
            found.without_target += not one.targets
            if not any(letter.isalnum() for letter in one.text):
                found.empty.append(f'{place}: the expression "{one.text}" has no word')
            if any(not 0 <= target < len(image.segments) for target in one.targets):
                found.broken.append(f'{place}: "{one.text}" means an object that is not there')
    return found


def report(found: Findings) -> str:
    """The findings in words, the histogram of the classes and lists of at most ten entries."""
    absent = [name for name, count in found.objects.items() if count == 0]
    lines = [f"{found.images} images, {found.objects.total()} objects"]
    if found.expressions:
        lines.append(
            f"{found.expressions} expressions, {found.without_target} of them mean nothing"
        )
    most = max(found.objects.values(), default=0)
    width = max((len(name) for name in found.objects), default=0)
    for name, count in found.objects.most_common():
        if count:
            bar = "#" * max(1, round(BAR * count / most))
            lines.append(f"  {name:{width}} {count:8,} {bar}")
    lines += _listed("classes without an object", absent)
    lines += _listed("images without an object", found.bare)
    lines += _listed("empty", found.empty)
    lines += _listed("broken", found.broken)
    return "\n".join(lines)


def _listed(title: str, entries: Sequence[str]) -> list[str]:
    more = len(entries) - LISTED
    shown = [f"  {entry}" for entry in entries[:LISTED]]
    return [f"{title}: {len(entries)}", *shown, *([f"  and {more} more"] if more > 0 else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; 0, or 1 if something is broken or cannot be opened."""
    parser = argparse.ArgumentParser(prog="hipie data check", description="Check a data set.")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    try:
        records, metadata = open_dataset(args)
        found = check_records(tqdm(records, desc=args.dataset, unit="image"), metadata)
    except (ValueError, OSError) as error:
        print(f"hipie data check: {error}", file=sys.stderr)
        return 1
    print(report(found))
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
