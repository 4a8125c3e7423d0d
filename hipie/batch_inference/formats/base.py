"""Interface and table of result formats.

@register_format("boxes")
class Boxes(ResultFormat):
    run_files = ("boxes",)

    def files(self, name):
        return (f"boxes/{name}.txt",)

    def write(self, folder, record):
        ...
"""

from __future__ import annotations

import difflib
from abc import ABC
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from hipie.batch_inference.records import ImageRecord
from hipie.errors import UsageError, printable

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import ResultFolder, RunFolder

FORMAT_REGISTRY: dict[str, type[ResultFormat]] = {}
"""Subclasses of `ResultFormat` by the name that `--format` takes."""

DEFAULT_FORMATS = ("overlay", "json")

Format = TypeVar("Format", bound="type[ResultFormat]")


class ResultFormat(ABC):  # noqa: B024 - a format has files of images, of the run, or both
    """Writes results in one format, from records of images."""

    run_files: ClassVar[tuple[str, ...]] = ()
    """Files of the whole run, below the folder of results."""

    recognised_run_files: ClassVar[tuple[str, ...] | None] = None
    """Those that `hipie.result_files.is_result_file` recognises; None for all JSON files."""

    is_recognised: ClassVar[bool] = False
    """Whether `hipie.result_files.is_result_file` recognises its files."""

    writes_to_stdout: ClassVar[bool] = False
    """Whether `write` prints, so that it is called for every image in every run."""

    def files(self, name: str) -> tuple[str, ...]:
        """Return the files of an image, below the folder of results.

        Args:
            name: see `ImageRecord.name`.
        """
        return ()

    def write(self, folder: ResultFolder, record: ImageRecord) -> None:  # noqa: B027
        """Write the files of one image, each complete or not at all.

        Raises:
            HipieError: if they cannot be written.
        """

    def finish(self, folder: RunFolder) -> None:  # noqa: B027
        """Write `run_files` from all records of the folder.

        Raises:
            HipieError: if they cannot be written.
        """


def register_format(name: str) -> Callable[[Format], Format]:
    """Class decorator that registers a format under the name that `--format` takes."""

    def register(result_format: Format) -> Format:
        if name in FORMAT_REGISTRY:
            raise ValueError(f"the format {name} is registered already")
        FORMAT_REGISTRY[name] = result_format
        return result_format

    return register


def build_formats(arguments: Iterable[str]) -> list[ResultFormat]:
    """Build the formats of `--format`: names, or lists of names with commas; each once.

    Raises:
        UsageError: for a name that is not registered, with similar ones.
    """
    names = [name.strip() for argument in arguments for name in argument.split(",")]
    names = [name for name in names if name] or list(DEFAULT_FORMATS)
    for name in names:
        if name not in FORMAT_REGISTRY:
            similar = difflib.get_close_matches(name, FORMAT_REGISTRY, 3) or sorted(FORMAT_REGISTRY)
            raise UsageError(
                f'there is no format "{printable(name)}" for results; '
                f"{'similar names are' if len(similar) < 4 else 'formats are'} {', '.join(similar)}"
            )
    return [FORMAT_REGISTRY[name]() for name in dict.fromkeys(names)]
