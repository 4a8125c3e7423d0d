"""The console script: `hipie segment | refer | group | doctor | checkpoint | data`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hipie.segmentation import Segmentation

DEFAULT_CONFIG = "nano/hipie_nano_picturebook.yaml"
# The status of a program that Ctrl-C ended.
INTERRUPTED = 130
# Commands that live in a module of their own, with a `main(arguments)`.
_MODULES = {
    "doctor": "hipie.cli.doctor",
    "checkpoint": "hipie.cli.checkpoint",
    "data": "hipie.cli.data",
}


def parse_names(text: str) -> list[tuple[str, ...]]:
    """Class names separated by ";", each with its synonyms after ",".

    >>> parse_names("car; dog, puppy")
    [('car',), ('dog', 'puppy')]
    """
    entries = [tuple(word.strip() for word in entry.split(",")) for entry in text.split(";")]
    return [tuple(word for word in entry if word) for entry in entries if any(entry)]


def parse_parts(text: str) -> dict[str, list[str]]:
    """Part names by whole: "car: wheel, window; dog: head".

    Raises:
        ValueError: for an entry without a colon.
    """
    parts: dict[str, list[str]] = {}
    for entry in filter(None, (piece.strip() for piece in text.split(";"))):
        whole, colon, names = entry.partition(":")
        listed = [name.strip() for name in names.split(",") if name.strip()]
        if not colon or not whole.strip() or not listed:
            raise ValueError(f'parts "{entry}": write them as "whole: part, part"')
        parts[whole.strip()] = listed
    return parts


def add_vocabulary_arguments(parser: argparse.ArgumentParser) -> None:
    """`--things`, `--stuff`, `--parts`, and which weights run where."""
    parser.add_argument("--things", default="", metavar="NAMES", help='"car; dog, puppy"')
    parser.add_argument("--stuff", default="", metavar="NAMES", help='"grass; sky"')
    parser.add_argument("--parts", default="", metavar="NAMES", help='"car: wheel, window"')
    parser.add_argument("--weights", default=None, metavar="FILE")
    parser.add_argument("--device", default=None, choices=("cpu", "cuda"))
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; errors in the input end it with one sentence, Ctrl-C with none."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in _MODULES:
        from importlib import import_module

        sys.exit(import_module(_MODULES[arguments[0]]).main(arguments[1:]))
    args = _parser().parse_args(arguments)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        sys.exit(f"hipie {args.command}: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hipie", description="Segment images by words.")
    commands = parser.add_subparsers(dest="command", required=True)
    segment = commands.add_parser("segment", help="things, stuff and parts by name")
    segment.add_argument("image")
    segment.add_argument(
        "--sam", default="", metavar="TYPE", help="masks made finer by SAM: vit_b, vit_l or vit_h"
    )
    segment.add_argument(
        "--sam-weights", default="", metavar="FILE", help="the file that SAM's authors publish"
    )
    segment.add_argument(
        "--everything", action="store_true", help="names for all masks that SAM finds by itself"
    )
    segment.set_defaults(run=_segment)
    refer = commands.add_parser("refer", help="the thing an expression describes")
    refer.add_argument("image")
    refer.add_argument("expression", nargs="+")
    refer.set_defaults(run=_refer)
    group = commands.add_parser("group", help="one sentence, several images")
    group.add_argument("expression")
    group.add_argument("images", nargs="+")
    group.add_argument(
        "--skip-broken", action="store_true", help="go on without images that cannot be read"
    )
    group.set_defaults(run=_group)
    for command in (segment, refer, group):
        command.add_argument("--config-file", metavar="FILE_OR_NAME")
        command.add_argument("--output", default="output", metavar="FOLDER")
        add_vocabulary_arguments(command)
    for name in _MODULES:
        commands.add_parser(name, help=f"python -m {_MODULES[name].removesuffix('.__main__')}")
    return parser


def _segmenter(args: argparse.Namespace, task: str = ""):
    """The configured model, or one that comes with weights: for a task, if there is one."""
    from hipie import model_zoo
    from hipie.predictor import Segmenter

    able = model_zoo.configs_for_task(task, trained=True) if task and not args.config_file else []
    config_file = args.config_file or next(iter(able), DEFAULT_CONFIG)
    return Segmenter.from_config(config_file, args.weights, args.device, args.opts)


def _sam(args: argparse.Namespace):
    """The SAM that refines masks, if one is asked for.

    Raises:
        ValueError: for an unknown type, or weights that are missing or another model's.
    """
    if not args.sam:
        if args.sam_weights:
            raise ValueError("--sam-weights needs --sam, the type of the SAM in that file")
        return None
    from hipie.modeling.open_vocabulary.error import OpenVocabularyError, missing_package

    try:
        from hipie.modeling.sam.predictor import Sam
    except ModuleNotFoundError as error:
        raise OpenVocabularyError(
            missing_package("--sam", "segment_anything", "sam").msg
        ) from error
    return Sam.from_source(args.sam, args.sam_weights)


def _segment(args: argparse.Namespace) -> None:
    things, stuff, parts = (
        parse_names(args.things),
        parse_names(args.stuff),
        parse_parts(args.parts),
    )
    if args.everything and (parts or not args.sam):
        raise ValueError("--everything needs --sam, and goes without --parts")
    _spare([args.image], args.output, Path(args.image).stem)
    sam, segmenter = _sam(args), _segmenter(args)
    if sam is not None:
        sam.to(segmenter.model.device)
    if args.everything:
        found = segmenter.segment_everything(args.image, sam, things, stuff)
    else:
        found = segmenter.segment(args.image, things, stuff, parts, sam=sam)
    _keep(found, Path(args.output), Path(args.image).stem)


def _refer(args: argparse.Namespace) -> None:
    _spare([args.image], args.output, Path(args.image).stem)
    found = _segmenter(args).refer(args.image, args.expression)
    _keep(found, Path(args.output), Path(args.image).stem)


def _group(args: argparse.Namespace) -> None:
    from hipie.visualizer import draw_group

    _spare(args.images, args.output, "group")
    images = readable(args.images, args.skip_broken)
    found = _segmenter(args, "group").refer_group(images, args.expression)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    draw_group(found, args.expression).save(folder / "group.png")
    (folder / "group.json").write_text(json.dumps(group_answers(images, found), indent=1))
    print(folder / "group.png")


def readable(images: Sequence[str], skip_broken: bool) -> list[str]:
    """The images; with `skip_broken` without those that cannot be read, which are named.

    Raises:
        ValueError: if none can be read.
    """
    if not skip_broken:
        return list(images)
    from hipie.data.image_io import read_image

    kept, faults = [], []
    for image in images:
        try:
            read_image(image)
            kept.append(image)
        except (ValueError, OSError) as error:
            faults.append(error)
            print(f"left out: {error}", file=sys.stderr)
    if faults and not kept:
        raise ValueError(f"none of the images can be read: {faults[-1]}")
    return kept


def group_answers(images: Sequence[str], found: Sequence[Segmentation]) -> list[dict[str, Any]]:
    """What a group was answered: dicts with `file`, `shown`, and `annotations` in COCO's format.

    An image that does not show what was asked has no annotation.
    """
    answers = []
    for name, one in zip(images, found, strict=True):
        shown = any(segment.mask.any() for segment in one)
        answers.append(
            {"file": name, "shown": shown, "annotations": one.to_coco() if shown else []}
        )
    return answers


def _spare(images: Sequence[str], folder: str, stem: str) -> None:
    """Refuse to write results where one of the images is.

    Raises:
        ValueError: naming it.
    """
    for image in images:
        if Path(image).resolve() == (Path(folder) / f"{stem}.png").resolve():
            raise ValueError(
                f"--output {folder} would write over the image {image}; name another folder"
            )


def _keep(found, folder: Path, stem: str) -> None:
    found.save(folder / f"{stem}.json")
    print(found.save(folder / f"{stem}.png", stem))


if __name__ == "__main__":
    main()
