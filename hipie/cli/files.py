"""Image files that commands read, and result files that they write."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.errors import InputError, UsageError, printable_message

if TYPE_CHECKING:
    from hipie.batch_inference.recorder import Summary
    from hipie.segmentation import Segmentation

# Suffixes of --output that are those of a file, and not of a folder.
_FILE_SUFFIXES = {
    *(".json", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".avif"),
    *(".pdf", ".txt", ".csv", ".npy", ".npz", ".html"),
}
SEVERAL_IMAGES = (
    'for several images: hipie demo --input IMAGE IMAGE ... (in a shell "FOLDER"/*.jpg), or '
    "hipie group EXPRESSION IMAGE IMAGE ..."
)


def add_output_arguments(parser: argparse.ArgumentParser, default: str | None = "output") -> None:
    """Add `--output` and `--overwrite`."""
    parser.add_argument(
        "--output",
        default=default,
        required=default is None,
        metavar="FOLDER",
        help="folder for the drawing and the JSON file",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files in it that hipie did not write; of many images, make all results anew",
    )


def require_one_image(images: Sequence[str], command: str) -> str:
    """Return the only image of a command line.

    Raises:
        UsageError: if there are several, or it is a folder; the message says what is accepted.
    """
    if len(images) > 1:
        raise UsageError(f"{command} reads one image, not {len(images)}; {SEVERAL_IMAGES}")
    require_no_folder(images)
    return images[0]


def require_no_folder(images: Iterable[str]) -> None:
    """Check that no image is a folder.

    Raises:
        UsageError: naming the folder and what is accepted.
    """
    for image in images:
        if os.path.isdir(image):
            raise UsageError(f"{image} is a folder, and image files are read; {SEVERAL_IMAGES}")


def readable_images(images: Sequence[str], skip_broken: bool, max_pixels: int) -> list[str]:
    """Return the image files; with `skip_broken` without those that cannot be read.

    Every file that is left out is named on the standard error.

    Args:
        images: files.
        skip_broken: whether files are read and left out; False returns all.
        max_pixels: INPUT.MAX_PIXELS.

    Raises:
        ValueError: if none can be read.
    """
    if not skip_broken:
        return list(images)
    from hipie.data.image_io import read_image

    readable: list[str] = []
    errors: list[Exception] = []
    for image in images:
        try:
            read_image(image, max_pixels)
            readable.append(image)
        except (ValueError, OSError) as error:
            errors.append(error)
            print(printable_message(f"skipped: {error}"), file=sys.stderr)
    if errors and not readable:
        raise InputError(f"none of the images can be read: {errors[-1]}")
    return readable


def unique_stems(images: Sequence[str]) -> list[str]:
    """Return a name for the results of each image: its stem, with a number where two have the same.

    >>> unique_stems(["a/1.png", "b/1.png", "b/2.png"])
    ['1', '1_2', '2']
    """
    stems: list[str] = []
    used: set[str] = set()
    for image in images:
        stem = name = Path(image).stem
        number = 1
        while name.casefold() in used:
            number += 1
            name = f"{stem}_{number}"
        used.add(name.casefold())
        stems.append(name)
    return stems


def require_folder_name(folder: str) -> Path:
    """Check that `--output` is a folder, or can become one.

    Raises:
        UsageError: if it is a file or is named like one.
    """
    path = Path(folder)
    if not path.is_dir() and (os.path.lexists(path) or path.suffix.lower() in _FILE_SUFFIXES):
        raise UsageError(f"--output {folder} is a file name; name a folder, which is made")
    return path


def require_writable(
    folder: str, names: Iterable[str], args: argparse.Namespace, inputs: Iterable[str]
) -> Path:
    """Check, before any work, that result files would replace no file of the user.

    Args:
        folder: --output.
        names: of the files that will be written in it.
        args: the command line, with `overwrite` and perhaps files of weights and a configuration.
        inputs: the images that are read.

    Returns:
        The folder, which need not exist.

    Raises:
        UsageError: if the folder is a file or is named like one, if a name is that of an input
            (also by a link), or if there is a file that no command of this package wrote, without
            --overwrite. Links are never results, and are replaced, not followed.
    """
    from hipie.result_files import require_replaceable

    path = require_folder_name(folder)
    settings = (getattr(args, name, None) for name in ("weights", "config_file", "sam_weights"))
    read = [(name, "image") for name in inputs]
    read += [(name, "file") for name in settings if name and os.path.isfile(name)]
    for name in names:
        require_replaceable(path / name, read, args.overwrite)
    return path


def make_settings(command: str, args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Return the `settings` of a result file: program, version, model and the command's arguments.

    Args:
        command: such as "hipie segment".
        args: the command line with the arguments of `add_model_arguments`.
        **more: what the command was asked for.
    """
    from hipie import __version__

    names = ("model", "config_file", "weights", "device", "opts")
    model = {name: getattr(args, name) for name in names}
    if getattr(args, "precision", None) not in (None, "float32"):
        model["precision"] = args.precision
    return {"program": command, "version": __version__, **model, **more}


def save_result(
    result: Segmentation,
    folder: Path,
    stem: str,
    settings: Mapping[str, Any] | None = None,
    min_legend_area: int | None = None,
) -> None:
    """Write the drawing and the JSON of a result, and print the drawing's file name.

    Files of these names are replaced; `require_writable` has been called for them.
    """
    result.save(folder / f"{stem}.json", settings=settings, overwrite=True)
    drawing = folder / f"{stem}.png"
    if min_legend_area is None:
        print(printable_message(str(result.save(drawing, stem, overwrite=True))))
    else:
        path = result.save(drawing, stem, min_area=min_legend_area, overwrite=True)
        print(printable_message(str(path)))


def report_no_segment(image: str, best: tuple[str, float], advice: str = "") -> None:
    """Say on the standard error that an image has no segment, and the best score.

    Args:
        image: the file.
        best: class name or expression, and its score.
        advice: what may help.
    """
    name, score = best
    print(
        printable_message(
            f'{image}: nothing was found; the best score is {score:.2f} ("{name}"){advice}'
        ),
        file=sys.stderr,
    )


def report_if_empty(image: str, result: Segmentation) -> None:
    """Say on the standard error if no expression has a mask in an image, with the best score."""
    if not any(segment.area for segment in result):
        best = max(result, key=lambda segment: segment.score, default=None)
        report_no_segment(image, (best.label, best.score) if best else ("no segment", 0.0))


def print_summary(output: str, summary: Summary) -> None:
    """Print the counts of a run on the standard error."""
    from hipie.batch_inference.run_folder import ERRORS

    text = f"{output}: {summary.done} done, {summary.skipped} skipped, {summary.failed} failed"
    if summary.failed:
        text += f" ({output.rstrip('/')}/{ERRORS})"
    print(printable_message(text), file=sys.stderr)
