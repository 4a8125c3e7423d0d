"""Command lines of the programs `datasets/prepare_*.py`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from hipie.data.io.paths import datasets_root
from hipie.data.io.reading_rules import MAX_ANNOTATION_BYTES, ReadingRules, read_by
from hipie.data.preparation.checks import Check, print_missing, run_checks
from hipie.data.preparation.sources import DownloadSource, SourceFiles
from hipie.error_report import run_program
from hipie.errors import UsageError

MAX_WORKERS = 16


def run(
    arguments: Sequence[str] | None,
    description: str,
    sources: Sequence[DownloadSource],
    prepare: Callable[[SourceFiles, Path], None],
    checks: Callable[[Path], Iterable[Check]],
) -> int:
    """Run a program that copies downloaded files into the root of all data sets, or checks them.

    Args:
        arguments: the command line; None = `sys.argv`.
        description: one line for `--help`.
        sources: where to download the files.
        prepare: called with the downloaded files and the root; existing files are kept.
        checks: returns the checks of the prepared data set below the root.

    Returns:
        The exit status: 0, or 1 if a check failed. Images that are not downloaded yet fail a check
        only with `--check`.

    Raises:
        SystemExit: after an error or Ctrl-C, see `hipie.error_report.one_line_errors`.
    """
    parser = _parser(description, sources)
    parser.add_argument("--source", type=Path, metavar="FOLDER", help="the downloaded files")
    options = parser.parse_args(arguments)
    root = options.root or datasets_root()

    def run_all() -> int:
        if not options.check:
            if options.source is None:
                _print_sources(sources)
                raise UsageError("--source FOLDER is required: the folder of the downloaded files")
            prepare(SourceFiles(options.source), root)
        try:
            return run_checks(checks(root), images_may_be_missing=not options.check)
        finally:
            print_missing(sources, root)

    return run_preparation(parser.prog, partial(_by_rules, options, run_all))


def run_in_place(
    arguments: Sequence[str] | None,
    description: str,
    sources: Sequence[DownloadSource],
    prepare: Callable[[Path, int], None],
    checks: Callable[[Path, int], Iterable[Check]],
) -> int:
    """Run a program that writes label maps beside the unpacked files, or checks them.

    Args:
        arguments: the command line; None = `sys.argv`.
        description: one line for `--help`.
        sources: where to download the files.
        prepare: called with the root and the number of processes; existing files are kept.
        checks: returns the checks of the prepared data set, with the same arguments.

    Returns:
        The exit status: 0, or 1 if a check failed.

    Raises:
        SystemExit: after an error or Ctrl-C, see `hipie.error_report.one_line_errors`.
    """
    parser = _parser(description, sources)
    parser.add_argument("--workers", type=int, default=min(MAX_WORKERS, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    root = options.root or datasets_root()

    def run_all() -> int:
        if not options.check:
            prepare(root, options.workers)
        try:
            return run_checks(checks(root, options.workers))
        finally:
            print_missing(sources, root)

    return run_preparation(parser.prog, partial(_by_rules, options, run_all), sources)


def _parser(description: str, sources: Sequence[DownloadSource]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="\n".join([description, "", "Sources:", *map(str, sources)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--root", type=Path, metavar="FOLDER", help=f"of all data sets (default {datasets_root()})"
    )
    parser.add_argument(
        "--max-annotation-bytes",
        type=int,
        default=MAX_ANNOTATION_BYTES,
        metavar="N",
        help=f"refuse larger annotation files (default {MAX_ANNOTATION_BYTES})",
    )
    parser.add_argument("--check", action="store_true", help="only check existing files")
    return parser


def _by_rules(options: argparse.Namespace, run_all: Callable[[], int]) -> int:
    with read_by(ReadingRules(max_bytes=options.max_annotation_bytes)):
        return run_all()


def _print_sources(sources: Sequence[DownloadSource]) -> None:
    print("\n".join(["The files are from:", *(f"  {source}" for source in sources)]))


def run_preparation(
    program: str, run_all: Callable[[], int], sources: Sequence[DownloadSource] = ()
) -> int:
    """Run a program that writes files of a data set, and ends in one sentence after an error.

    Args:
        program: its name, for messages.
        run_all: returns the exit status.
        sources: printed for a missing file.

    Returns:
        The exit status.

    Raises:
        SystemExit: after an error or Ctrl-C, see `hipie.error_report.one_line_errors`.
    """

    def run_and_advise() -> int:
        try:
            return run_all()
        except FileNotFoundError:
            if sources:
                _print_sources(sources)
            raise
        except KeyboardInterrupt:
            print("\ninterrupted; run the same command to continue", file=sys.stderr)
            raise

    return run_program(program, run_and_advise)
