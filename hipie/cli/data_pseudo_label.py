"""Command `hipie data pseudo-label DATASET --kind KIND --output FILE`: masks from weak labels."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hipie.cli.dataset_argument import add_arguments, dataset_config, open_dataset
from hipie.cli.refinement import build_sam
from hipie.data.image_io import read_record_image
from hipie.data.pseudo_labels import METHODS, SAM, coco_content, pseudo_label, require_kind
from hipie.data.supervision import BOXES, POINTS, SCRIBBLES, WeakLabels, require_annotations
from hipie.error_report import one_line_errors
from hipie.errors import InputError
from hipie.result_files import write_json
from hipie.vocabularies.vocabulary import Vocabulary

PROGRAM = "hipie data pseudo-label"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        0, the exit status.

    Raises:
        SystemExit: with one line, see `one_line_errors`.
    """
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Make masks from the boxes, points or scribbles of a data set in COCO's "
        "format, each with a confidence that training uses as the weight of its losses.",
    )
    parser.add_argument(
        "--kind",
        required=True,
        choices=(BOXES, POINTS, SCRIBBLES),
        help="what is read of the annotations; points and scribbles that they do not have are "
        "derived from their masks",
    )
    parser.add_argument(
        "--method", choices=METHODS, default=METHODS[0], help="what makes the masks"
    )
    parser.add_argument(
        "--sam", default="sam-vit-b", metavar="MODEL", help="name or type of SAM, with --method sam"
    )
    parser.add_argument(
        "--sam-weights", default="", metavar="FILE", help="its weights, if --sam is a type"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="new COCO instances JSON")
    add_arguments(parser)
    args = parser.parse_args(arguments)
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


def make_masks(args: argparse.Namespace) -> dict[str, Any]:
    """Return the content of the file of masks.

    Args:
        args: the command line.

    Raises:
        InputError: if the file exists, or the data set has no instances to make masks of.
    """
    if os.path.exists(args.output):
        raise InputError(f"{args.output} exists; name another file")
    require_kind(args.kind)
    cfg = dataset_config(args)
    records, metadata = open_dataset(args, cfg)
    if not any(record.get("annotations") for record in records):
        raise InputError(f"{args.dataset} has no instances to make masks of")
    require_annotations(args.dataset, args.kind, records)
    node = cfg.DATASETS.WEAK_LABELS
    labels = WeakLabels(args.kind, node.POINTS, node.SCRIBBLE_PIXELS, node.SEED)
    sam = build_sam(args.sam, args.sam_weights, "--method sam") if args.method == SAM else None
    root = args.images or metadata.get("image_root") or os.path.dirname(records[0]["file_name"])
    images, annotations = [], []
    for record in tqdm(records, desc=PROGRAM, unit="image", disable=None):
        annotations.append(pseudo_label(read_record_image(record), record, labels, sam))
        name = Path(os.path.relpath(record["file_name"], root)).as_posix()
        images.append({"file_name": name, "height": record["height"], "width": record["width"]})
    vocabulary = metadata.get("vocabulary") or Vocabulary.from_metadata(metadata)
    return coco_content(images, annotations, vocabulary.names)
