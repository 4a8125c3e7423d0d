"""Command `hipie data from-tags SOURCE --output FILE`: masks from image tags."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hipie.cli.arguments import argument_text, parse_parts
from hipie.cli.refinement import build_sam
from hipie.data.image_io import read_image
from hipie.data.image_tags import read_tags
from hipie.data.pseudo_labels import coco_content
from hipie.data.tag_masks import REFINEMENTS, SAM, TagMaskOptions, tag_objects
from hipie.downloads import add_network_arguments
from hipie.error_report import one_line_errors
from hipie.errors import InputError, UsageError, printable
from hipie.modeling.class_activation import SCALES, ClassActivation
from hipie.modeling.tag_matching import (
    MIN_SIMILARITY,
    ImageNetClasses,
    MatchedClass,
    match_tags,
    named_classes,
)
from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.result_files import write_json
from hipie.vocabularies.vocabulary import name_key

PROGRAM = "hipie data from-tags"
SHOWN_CLASSES = 8
DEFAULTS = TagMaskOptions()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        0, the exit status.

    Raises:
        SystemExit: with one line, see `one_line_errors`.
    """
    args = build_parser().parse_args(arguments)
    with one_line_errors(PROGRAM):
        content = make_masks(args)
        write_json(Path(args.output), content)
    scores = [entry["score"] for entry in content["annotations"]]
    mean = sum(scores) / max(len(scores), 1)
    print(
        f"{args.output}: images: {len(content['images'])}; masks: {len(scores)}; mean "
        f"confidence: {mean:.2f}"
    )
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Make masks of what images show from the names of it: class activation maps of "
        "a classifier of ImageNet, refined, as a data set in COCO's format.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a COCO JSON, whose annotations need no more than an image and a category; a CSV file "
        "of lines image,tag,tag; or a folder with one folder of images a class",
    )
    parser.add_argument(
        "--images", default="", metavar="FOLDER", help="of the images, of a COCO JSON or CSV file"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="new COCO instances JSON")
    parser.add_argument(
        "--classes",
        default="",
        metavar="NAMES",
        help='classes of ImageNet that tags stand for: "cow: ox; person: groom, scuba diver"; '
        "by default they are found by names, definitions and the text encoder",
    )
    parser.add_argument(
        "--min-similarity",
        type=float,
        default=MIN_SIMILARITY,
        metavar="COSINE",
        help=f"of a class that the text encoder chooses, default {MIN_SIMILARITY}",
    )
    parser.add_argument(
        "--classifier",
        default="tf_efficientnet_lite2",
        metavar="NAME",
        help="model of timm, by default tf_efficientnet_lite2",
    )
    parser.add_argument(
        "--weights",
        default="package",
        metavar="FILE",
        help="its weights: package (tf_efficientnet_lite0 and lite2), published (a download), or a "
        "file",
    )
    parser.add_argument(
        "--text-encoder", default="minilm", metavar="NAME", help="minilm, or a folder with a BERT"
    )
    parser.add_argument(
        "--refine", choices=REFINEMENTS, default=DEFAULTS.refinement, help="what refines the maps"
    )
    parser.add_argument(
        "--sam", default="sam-vit-b", metavar="MODEL", help="name or type of SAM, with --refine sam"
    )
    parser.add_argument(
        "--sam-weights", default="", metavar="FILE", help="its weights, if --sam is a type"
    )
    parser.add_argument(
        "--background",
        type=float,
        default=DEFAULTS.background,
        metavar="VALUE",
        help=f"of a map, 0 to 1, above which it is an object, default {DEFAULTS.background}",
    )
    parser.add_argument(
        "--min-area",
        type=float,
        default=DEFAULTS.min_area,
        metavar="SHARE",
        help=f"of the image, of the smallest object, default {DEFAULTS.min_area}",
    )
    parser.add_argument(
        "--one-object",
        action="store_true",
        help="make one object of each tag, instead of one of each connected component",
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=SCALES,
        metavar="SCALE",
        help="of the classifier's inputs, default " + " ".join(map(str, SCALES)),
    )
    add_network_arguments(parser)
    return parser


def make_masks(args: argparse.Namespace) -> dict[str, Any]:
    """Return the content of the file of masks.

    Args:
        args: the command line.

    Raises:
        InputError, UsageError: if the file exists, a value is out of its range, or no class fits a
            tag.
    """
    if os.path.lexists(args.output):
        raise InputError(f"{args.output} exists; name another file")
    if not all(0 < scale <= 8 for scale in args.scales):
        raise UsageError(f"--scales must be above 0, and at most 8, not {args.scales}")
    options = TagMaskOptions(args.background, args.refine, args.min_area, not args.one_object)
    tagged = read_tags(args.source, args.images)
    activation = ClassActivation.from_timm(args.classifier, args.weights)
    matches = match_all(args, tagged.classes, activation)
    for name, matched in zip(tagged.classes, matches, strict=True):
        print(f"{printable(name)}: {_listed(matched)}")
    sam = build_sam(args.sam, args.sam_weights, "--refine sam") if args.refine == SAM else None
    images, annotations = [], []
    for entry in tqdm(tagged.images, desc=PROGRAM, unit="image", disable=None):
        image = read_image(os.path.join(tagged.root, entry.name))
        objects: list[dict[str, Any]] = []
        if entry.tags:
            classes = [[one.index for one in matches[tag]] for tag in entry.tags]
            maps = activation(image, classes, args.scales)
            objects = tag_objects(image, maps, entry.tags, options, sam)
        annotations.append(objects)
        names = [tagged.classes[tag] for tag in entry.tags]
        height, width = image.shape[:2]
        images.append({"file_name": entry.name, "height": height, "width": width, "tags": names})
    return coco_content(images, annotations, tagged.classes)


def match_all(
    args: argparse.Namespace, names: Sequence[str], activation: ClassActivation
) -> list[list[MatchedClass]]:
    """Return the classes of all tags: those of `--classes`, or those that fit.

    Raises:
        InputError, UsageError: naming the tag or class that does not fit.
    """
    chosen = {name_key(tag): own for tag, own in parse_parts(args.classes).items()}
    unknown = chosen.keys() - {name_key(name) for name in names}
    if unknown:
        raise UsageError(f'--classes has "{printable(min(unknown))}", which is none of the tags')
    classes = ImageNetClasses(activation.num_classes, activation.name)
    matches = {
        name: named_classes(name, chosen[name_key(name)], classes)
        for name in names
        if name_key(name) in chosen
    }
    others = [name for name in names if name not in matches]
    if others:
        encoder = BertTextEncoder.from_source(argument_text(args.text_encoder), frozen=True).eval()
        fitting = match_tags([(name,) for name in others], classes, encoder, args.min_similarity)
        matches |= dict(zip(others, fitting, strict=True))
    return [matches[name] for name in names]


def _listed(matched: Sequence[MatchedClass]) -> str:
    shown = [
        one.name if one.similarity == 1 else f"{one.name} ({one.similarity:.2f})"
        for one in matched[:SHOWN_CLASSES]
    ]
    more = len(matched) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
