"""Check of a data set: ``hipie data check DATASET`` or ``python -m hipie.data.check DATASET``.

Counts images, objects and expressions, prints the number of objects of every class, and lists empty
and invalid entries. The exit status is 1 if there are invalid entries.
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

from hipie.data.annotation_view import dataset_vocabulary, read_annotation
from hipie.data.dataset_argument import add_arguments, open_dataset
from hipie.error_report import one_line_errors

MAX_LISTED = 10
MAX_BAR_LENGTH = 40


@dataclass
class DatasetReport:
    """Counts and faults of a data set.

    Attributes:
        images: number of images.
        objects: number of objects by class name, with an entry for every class of the data set.
        expressions: number of referring expressions.
        without_target: number of expressions without a target.
        images_without_objects: paths of the images without any object.
        empty: messages about objects without a pixel and expressions without a word.
        invalid: messages about entries that cannot be read or contradict each other.
    """

    images: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    expressions: int = 0
    without_target: int = 0
    images_without_objects: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)


def check_records(records: Iterable[dict[str, Any]], metadata: Metadata) -> DatasetReport:
    """Read every image with its annotation.

    Args:
        records: records of the data set.
        metadata: metadata of the data set.
    """
    report = DatasetReport()
    vocabulary = dataset_vocabulary(metadata)
    report.objects.update(dict.fromkeys(vocabulary.names if vocabulary else (), 0))
    for record in records:
        report.images += 1
        try:
            view = read_annotation(record, metadata)
        except (ValueError, OSError) as error:
            report.invalid.append(str(error))
            continue
        path = record["file_name"]
        if not view.segments:
            report.images_without_objects.append(path)
        for number, segment in enumerate(view.segments, 1):
            report.objects["objects" if view.expressions else segment.label] += 1
            if not segment.mask.any():
                report.empty.append(f"{path}: object {number} ({segment.label}) has no pixel")
        for expression in view.expressions:
            report.expressions += 1
            report.without_target += not expression.targets
            if not any(letter.isalnum() for letter in expression.text):
                report.empty.append(f'{path}: the expression "{expression.text}" has no word')
            if any(not 0 <= target < len(view.segments) for target in expression.targets):
                report.invalid.append(
                    f'{path}: the expression "{expression.text}" has a target that does not exist'
                )
    return report


def format_report(report: DatasetReport) -> str:
    """Format a report as text: counts, histogram of the classes, lists of at most ten entries."""
    absent = [name for name, count in report.objects.items() if count == 0]
    lines = [f"{report.images} images, {report.objects.total()} objects"]
    if report.expressions:
        lines.append(f"{report.expressions} expressions, {report.without_target} without a target")
    largest = max(report.objects.values(), default=0)
    width = max((len(name) for name in report.objects), default=0)
    for name, count in report.objects.most_common():
        if count:
            bar = "#" * max(1, round(MAX_BAR_LENGTH * count / largest))
            lines.append(f"  {name:{width}} {count:8,} {bar}")
    lines += _format_list("classes without an object", absent)
    lines += _format_list("images without an object", report.images_without_objects)
    lines += _format_list("empty", report.empty)
    lines += _format_list("invalid", report.invalid)
    return "\n".join(lines)


def _format_list(title: str, entries: Sequence[str]) -> list[str]:
    more = len(entries) - MAX_LISTED
    listed = [f"  {entry}" for entry in entries[:MAX_LISTED]]
    return [f"{title}: {len(entries)}", *listed, *([f"  and {more} more"] if more > 0 else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status: 0, or 1 if the data set has invalid entries.

    Raises:
        SystemExit: with one line, if it cannot be opened; see `one_line_errors`.
    """
    parser = argparse.ArgumentParser(prog="hipie data check", description="Check a data set.")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    with one_line_errors("hipie data check"):
        records, metadata = open_dataset(args)
        report = check_records(tqdm(records, desc=args.dataset, unit="image"), metadata)
    print(format_report(report))
    return 1 if report.invalid else 0


if __name__ == "__main__":
    sys.exit(main())
