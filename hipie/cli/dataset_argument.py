"""Command-line arguments that select a data set: a registered name or a COCO file."""

from __future__ import annotations

import argparse
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from hipie import model_zoo
from hipie.code_permission import add_import_arguments
from hipie.config import add_hipie_config
from hipie.config.loading import merge
from hipie.data.broken_images import set_reading_rules, set_skip_broken
from hipie.data.datasets import register_all, register_coco
from hipie.data.io.reading_rules import rules_of
from hipie.data.records import load_records, sample_evenly
from hipie.downloads import add_network_arguments
from hipie.errors import InputError
from hipie.registration import import_modules


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that select a data set and its images."""
    parser.add_argument(
        "dataset", metavar="DATASET", help="a registered name or a COCO instances JSON"
    )
    parser.add_argument("--split", default="", metavar="NAME", help="val: same as DATASET_val")
    parser.add_argument("--images", metavar="FOLDER", help="image folder of a COCO JSON")
    parser.add_argument(
        "--config-file",
        default="",
        metavar="FILE",
        help="configuration that registers the data set: a file, or a name of the model zoo",
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="module or file that registers data sets; may be repeated",
    )
    parser.add_argument("--count", type=int, metavar="N", help="use N evenly spaced images")
    add_network_arguments(parser)
    add_import_arguments(parser)
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="keys of the configuration and their values, at the end of the command line",
    )


def open_dataset(args: argparse.Namespace, cfg: CfgNode) -> tuple[list[dict[str, Any]], Metadata]:
    """Load the records and the metadata of the data set that `add_arguments` selects.

    Args:
        args: the command line.
        cfg: of `dataset_config`; its data sets are registered.

    Raises:
        ValueError: for an unknown name (similar names are listed), or a count below 1.
        OSError, ValueError: of the reader, naming the file that is missing or invalid.
    """
    if args.count is not None and args.count < 1:
        raise InputError(f"--count must be at least 1, not {args.count}")
    register_all(cfg)
    name = args.dataset
    if name.endswith(".json"):
        if not args.images:
            raise InputError(f"{name}: a COCO JSON needs --images, the folder of its images")
        register_coco(name, name, args.images)
    elif args.split:
        name = find_split(name, args.split)
    elif name not in DatasetCatalog:
        similar = _names_with_prefix(name.split("_")[0])
        raise InputError(f'there is no data set "{name}"; there are {similar}')
    set_skip_broken(name, cfg.DATALOADER.SKIP_BROKEN, ())
    set_reading_rules(name, rules_of(cfg))
    records = load_records(name)
    return sample_evenly(records, args.count), MetadataCatalog.get(name)


def dataset_config(args: argparse.Namespace) -> CfgNode:
    """Return the configuration of the command line; the modules of `--import` are imported.

    Raises:
        ValueError: naming the file, module, key or value that does not fit.
    """
    if args.config_file:
        return model_zoo.get_config(args.config_file, args.opts, args.imports)
    cfg = get_cfg()
    add_hipie_config(cfg)
    import_modules(args.imports, cfg)
    merge(cfg, "", args.opts)
    return cfg


def find_split(name: str, split: str) -> str:
    """Return the registered name of a data set's split, which may be anywhere in the name.

    Args:
        name: the name without the split: "coco_2017_panoptic_with_sem_seg".
        split: name of the split: "val".

    Raises:
        ValueError: if there is no such data set.
    """
    matches = [
        registered_name
        for registered_name in DatasetCatalog
        if name
        in (
            registered_name.replace(f"{separator}{split}", "", 1)
            for separator in "_-"
            if separator in registered_name
        )
        and registered_name != name
    ]
    if len(matches) != 1:
        raise InputError(
            f'the data set "{name}" has no split "{split}"; there are {_names_with_prefix(name)}'
        )
    return matches[0]


def _names_with_prefix(prefix: str) -> str:
    return ", ".join(sorted(name for name in DatasetCatalog if name.startswith(prefix))) or "*.json"
