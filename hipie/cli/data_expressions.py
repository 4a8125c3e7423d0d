"""Command `hipie data expressions DATASET --output DIR`: expressions from instance annotations."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from hipie.cli.dataset_argument import add_arguments, dataset_config, open_dataset
from hipie.data.annotation_expressions import make_expressions
from hipie.error_report import one_line_errors
from hipie.errors import InputError
from hipie.result_files import replace_file, write_json

PROGRAM = "hipie data expressions"
REFS_FILE = "refs.json"
MASKS = "masks"


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
        description="Make referring expressions from the objects of a data set, by class, "
        "position, size and colour, each true of exactly one object of its image or of none. "
        f"Written are {REFS_FILE}, for DATASETS.REFERRING, and a folder of masks.",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="new or empty folder")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of all random choices"
    )
    parser.add_argument(
        "--per-image", type=int, default=6, metavar="N", help="expressions an image at most"
    )
    parser.add_argument(
        "--none-share",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="expected share of expressions that describe nothing in their image",
    )
    add_arguments(parser)
    args = parser.parse_args(arguments)
    with one_line_errors(PROGRAM):
        counts = write_expressions(args)
    print(
        f"{args.output}/{REFS_FILE}: images: {counts['images']}; expressions: "
        f"{counts['with a target'] + counts['without target']}, of which "
        f"{counts['without target']} without target"
    )
    return 0


def write_expressions(args: argparse.Namespace) -> Counter[str]:
    """Write the refs list and the masks.

    Args:
        args: the command line.

    Returns:
        The number of `images`, and of expressions `with a target` and `without target`.

    Raises:
        InputError: for arguments that cannot be used, a data set without instances, or a folder
            with something in it.
    """
    if args.per_image < 1 or not 0 <= args.none_share <= 1 or args.seed < 0:
        raise InputError(
            "--per-image must be at least 1, --none-share in 0 to 1, and --seed not negative"
        )
    folder = Path(args.output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not an empty folder; name another one")
    records, metadata = open_dataset(args, dataset_config(args))
    if not metadata.get("thing_classes") or not any(r.get("annotations") for r in records):
        raise InputError(f"{args.dataset} has no instances to make expressions from")
    root = args.images or metadata.get("image_root") or os.path.dirname(records[0]["file_name"])
    (folder / MASKS).mkdir(parents=True, exist_ok=True)
    refs: list[dict[str, Any]] = []
    counts: Counter[str] = Counter(images=len(records))
    for number, record in enumerate(tqdm(records, desc=PROGRAM, unit="image", disable=None)):
        image = Path(os.path.relpath(record["file_name"], root)).as_posix()
        entries = make_expressions(
            record,
            metadata,
            seed=args.seed,
            max_expressions=args.per_image,
            none_share=args.none_share,
        )
        for position, (entry, mask) in enumerate(entries):
            ref: dict[str, Any] = {"image": image}
            if mask is not None:
                ref["mask"] = f"{MASKS}/{number:06d}_{position}.png"
                pixels = Image.fromarray(mask.astype(np.uint8) * 255).convert("1")
                replace_file(folder / ref["mask"], partial(pixels.save, format="PNG"))
            refs.append(ref | entry)
            kind = "without target" if mask is None else "with a target"
            counts[kind] += len(entry["sentences"])
    write_json(folder / REFS_FILE, refs)
    return counts
