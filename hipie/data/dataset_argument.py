"""Which data set a command is about: a registered one, or a file in COCO's format."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from hipie.config import add_hipie_config
from hipie.config.loading import merge
from hipie.data.datasets import register_all, register_coco


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set, where its configuration and images are, and how much of it is meant."""
    parser.add_argument("dataset", metavar="DATASET", help="a registered name, or a COCO JSON file")
    parser.add_argument("--split", default="", metavar="NAME", help="val: the same as DATASET_val")
    parser.add_argument("--images", metavar="FOLDER", help="images of a COCO JSON file")
    parser.add_argument("--config-file", default="", metavar="FILE", help="that names the data set")
    parser.add_argument("--count", type=int, metavar="N", help="look at N images, evenly spread")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")


def open_dataset(args: argparse.Namespace) -> tuple[list[dict[str, Any]], Metadata]:
    """The records that `add_arguments` asks for, and what is known of the data set.

    Raises:
        ValueError: for an unknown name (with those that begin alike), or a count below 1.
        OSError, ValueError: from the reader, naming what is missing or wrong.
    """
    if args.count is not None and args.count < 1:
        raise ValueError(f"--count is {args.count}; it has to be at least 1")
    cfg = get_cfg()
    add_hipie_config(cfg)
    merge(cfg, args.config_file, args.opts)
    register_all(cfg)
    name = args.dataset
    if name.endswith(".json"):
        if not args.images:
            raise ValueError(f"{name}: say with --images in which folder its images are")
        register_coco(name, name, args.images)
    elif args.split:
        name = name_of_split(name, args.split)
    elif name not in DatasetCatalog:
        start = name.split("_")[0]
        raise ValueError(f'there is no data set "{name}"; there are {_that_begin_with(start)}')
    records = DatasetCatalog.get(name)
    return spread(records, args.count), MetadataCatalog.get(name)


def name_of_split(name: str, split: str) -> str:
    """The registered name of a data set's split, which may stand anywhere in the name.

    Raises:
        ValueError: if there is none.
    """
    whole = [
        known
        for known in DatasetCatalog
        if name in (known.replace(f"{sign}{split}", "", 1) for sign in "_-" if sign in known)
        and known != name
    ]
    if len(whole) != 1:
        raise ValueError(
            f'the data set "{name}" has no split "{split}"; there are {_that_begin_with(name)}'
        )
    return whole[0]


def _that_begin_with(start: str) -> str:
    return ", ".join(sorted(one for one in DatasetCatalog if one.startswith(start))) or "*.json"


def spread(records: Sequence[Any], count: int | None) -> list[Any]:
    """At most `count` of the records, from the first to the last in even steps; None: all."""
    if count is None or count >= len(records):
        return list(records)
    return [records[i] for i in np.linspace(0, len(records) - 1, count).round().astype(int)]
