"""Prototypes of the classes of an annotated data set: `python -m hipie_classical DATASET`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import NoOpTransform
from numpy.typing import NDArray
from tqdm import tqdm

from hipie.cli.dataset_argument import add_arguments, dataset_config, open_dataset
from hipie.data.annotation_maps import read_class_map, read_panoptic_map
from hipie.data.dataset_mappers.annotations import instance_masks, panoptic_masks, semantic_masks
from hipie.data.image_io import read_record_image
from hipie.error_report import run_program
from hipie.errors import InputError, printable
from hipie.result_files import require_replaceable
from hipie.vocabularies.vocabulary import Vocabulary
from hipie_classical.modeling.prototypes import Prototypes

PROGRAM = "python -m hipie_classical"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute prototypes, and write them to a file.

    Returns:
        The exit status, 0.

    Raises:
        SystemExit: after an error or Ctrl-C, see `hipie.error_report.one_line_errors`.
    """
    return run_program(PROGRAM, lambda: _run(_parser().parse_args(arguments)))


def _run(args: argparse.Namespace) -> int:
    require_replaceable(args.output, [], args.overwrite)
    cfg = dataset_config(args)
    records, metadata = open_dataset(args, cfg)
    names = Vocabulary.from_metadata(metadata).names
    prototypes, counts = fit_prototypes(cfg, records, names, metadata.get("ignore_label", 255))
    path = prototypes.write(args.output)
    missing = [name for label, name in enumerate(names) if not counts[label]]
    print(
        f"{printable(path)}: {len(records)} images, {sum(counts.values())} regions, prototypes of "
        f"{len(prototypes.names)} classes"
        + (f"; without any region: {', '.join(missing)}" if missing else "")
    )
    return 0


def fit_prototypes(
    cfg: CfgNode, records: Sequence[dict[str, Any]], names: Sequence[str], ignore_label: int
) -> tuple[Prototypes, Counter[int]]:
    """Compute the prototypes of annotated regions.

    Args:
        cfg: reads MODEL.CLASSICAL.PROTOTYPES.FEATURES.
        records: of a data set.
        names: of its classes.
        ignore_label: of semantic maps.

    Returns:
        The prototypes, and the number of regions by class.

    Raises:
        InputError: for a record without annotated regions, naming its file.
    """
    from hipie_classical.modeling.region_features import RegionFeatures

    extractor = RegionFeatures(cfg.MODEL.CLASSICAL.PROTOTYPES.FEATURES)
    features, labels = [], []
    for record in tqdm(records, desc=PROGRAM, unit="image", disable=None):
        image = read_record_image(record)
        masks, classes = annotated_masks(record, ignore_label)
        regions = np.full(image.shape[:2], -1, np.int32)
        for number, mask in enumerate(masks):
            regions[mask] = number
        present, inverse = np.unique(regions, return_inverse=True)
        first = int(present[0] < 0)  # pixels without a class are -1
        if len(present) > first:
            numbered = inverse.reshape(regions.shape).astype(np.int32) - first
            features.append(extractor(image, numbered))
            labels += classes[present[first:]].tolist()
    stacked = torch.cat(features) if features else torch.zeros(0, 1)
    return Prototypes.fit(stacked, labels, names, extractor.kinds), Counter(labels)


def annotated_masks(
    record: dict[str, Any], ignore_label: int = 255
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read the annotated regions of an image, without crowds.

    Returns:
        Masks [N, H, W] bool, and class indices [N].

    Raises:
        InputError: naming the file, without a panoptic or semantic map or instances.
    """
    transform = NoOpTransform()
    if "segments_info" in record:
        colors = read_panoptic_map(record["pan_seg_file_name"])
        return panoptic_masks(colors, record["segments_info"], transform)
    if "sem_seg_file_name" in record:
        classes = read_class_map(record["sem_seg_file_name"]).astype(np.int32)
        return semantic_masks(classes, transform, ignore_label)
    if "annotations" in record:
        size = (record["height"], record["width"])
        return instance_masks(record["annotations"], *size, transform)
    raise InputError(
        f"{record.get('file_name', 'an image')}: prototypes need a panoptic map, a semantic map or "
        "instances"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file that hipie did not write"
    )
    add_arguments(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
