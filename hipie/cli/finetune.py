"""Fine-tuning in one command: `hipie train --data NAME=instances.json:images --val ...`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from hipie import model_zoo
from hipie.checkpoint.atomic_write import write_atomically
from hipie.config.dataset_entries import ENTRY_FORMS
from hipie.config.loading import check, merge
from hipie.data.dataset_specification import (
    DatasetSpecification,
    forms_text,
    parse_dataset,
)
from hipie.data.datasets import register_all
from hipie.engine.finetuning import changed_values, config_text, finetuning_config
from hipie.engine.output_folder import FINETUNING_FILE
from hipie.errors import InputError, UsageError, printable

# Models that are fine-tuned if none is named, the best one first; for groups of images others.
DEFAULT_MODELS = ("hipie-nano-photos", "hipie-nano-picturebook")
GROUP_MODELS = ("grser-nano-photos", "grser-nano-picturebook")
HELP = f"""data sets of --data and --val, whose kind is recognised:
{forms_text()}
  NAME                                      a set that --import or --config-file registers
Paths may contain colons where they exist. Options of a set stand behind a colon as well:
background=void, ignore=0 (label maps), whole=car (instances, label maps), split=val (refs, groups).
"""


def add_finetuning_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--data` and `--val`."""
    group = parser.add_argument_group("fine-tuning")
    group.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=FILES",
        help="data set to learn, see below; may be repeated. The schedule fits the number of "
        f"images; OUTPUT_DIR/{FINETUNING_FILE} has all settings",
    )
    group.add_argument(
        "--val",
        action="append",
        default=[],
        metavar="NAME=FILES",
        help="data set to evaluate on; the first one selects model_best.pth",
    )


def read_finetuning(args: argparse.Namespace) -> tuple[CfgNode, str]:
    """Build the configuration of `--data` and `--val`, and the text of its file.

    Args:
        args: a command line of `hipie train`.

    Returns:
        The configuration; and the text that repeats it, with `_BASE_`.

    Raises:
        UsageError: for `--val` without `--data`, or an evaluation.
        HipieError: naming the data set, model, key or value that cannot be used.
    """
    if args.eval_only:
        raise UsageError("--data and --val are for training; name the sets in DATASETS.TEST")
    if not args.data:
        raise UsageError("--val needs --data, the data set to learn")
    train = [parse_dataset(text, "train") for text in args.data]
    test = [parse_dataset(text, "val") for text in args.val]
    base_name, options, weights, title = _starting_model(args, [*train, *test])
    imports = [os.path.abspath(name) if name.endswith(".py") else name for name in args.imports]
    reference = model_zoo.get_config(base_name, imports=imports)
    base = reference.clone()
    merge(base, "", options)
    base.MODEL.WEIGHTS = weights
    if imports:
        base.IMPORTS = tuple(dict.fromkeys([*base.IMPORTS, *imports]))
    _keep_entries(base, {one.name for one in (*train, *test)})
    register_all(base.clone())
    chosen = _chosen_values(base, args.opts)
    if not weights and not chosen.get("MODEL.WEIGHTS"):
        raise InputError(f"{title} has no weights to start from: name them by MODEL.WEIGHTS FILE")
    cfg = finetuning_config(base, train, test, chosen)
    cfg.OUTPUT_DIR = os.path.join("output", train[0].name)
    if args.exclude:
        cfg.MODEL.WEIGHTS_EXCLUDE = tuple(args.exclude)
    merge(cfg, "", args.opts)
    cfg.MODEL.WEIGHTS = _absolute(cfg.MODEL.WEIGHTS)
    cfg.OUTPUT_DIR = os.path.abspath(cfg.OUTPUT_DIR)
    check(cfg)
    names = ", ".join(printable(one.name) for one in train)
    comment = [
        f"Fine-tunes {title} on {names}. Written by hipie train; the same run is",
        f"train_net.py --config-file {FINETUNING_FILE}, with another OUTPUT_DIR or --overwrite.",
    ]
    return cfg, config_text(comment, base_name, changed_values(reference, cfg))


def _keep_entries(cfg: CfgNode, names: set[str]) -> None:
    """Remove the data sets of other names, whose files may not be on this machine."""
    for key in ENTRY_FORMS:
        cfg.DATASETS[key] = [entry for entry in cfg.DATASETS[key] if entry[0] in names]


def write_finetuning(cfg: CfgNode, text: str) -> str:
    """Write the configuration into its OUTPUT_DIR, and return the file.

    Raises:
        InputError: if the folder cannot be written.
    """
    file = Path(cfg.OUTPUT_DIR, FINETUNING_FILE)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"OUTPUT_DIR {cfg.OUTPUT_DIR} cannot be written: {error.strerror or error}"
        ) from error
    write_atomically(file, lambda name: _write_text(name, text))
    return str(file)


def _starting_model(
    args: argparse.Namespace, sets: Sequence[DatasetSpecification]
) -> tuple[str, list[str], str, str]:
    """Return configuration, further options and weights of the model, and its name."""
    if args.config_file:
        name = _config_name(args.config_file)
        cfg = model_zoo.get_config(name, imports=args.imports)
        weights = str(model_zoo.get_weights(name) or cfg.MODEL.WEIGHTS)
        return name, [], _absolute(weights), name
    name = args.model or _default_model(sets)
    model = model_zoo.pretrained(name)
    weights = name if name in model_zoo.MODELS else _absolute(model.weights)
    return _config_name(model.config), list(model.options), weights, name


def _default_model(sets: Sequence[DatasetSpecification]) -> str:
    """Return the packaged model that fits the kinds of data sets."""
    from hipie.registration import register_all as register_models

    register_models()
    has_groups = all(one.key == "GROUPS" for one in sets)
    models = GROUP_MODELS if has_groups else DEFAULT_MODELS
    return next((name for name in models if name in model_zoo.MODELS), models[-1])


def _config_name(name: str) -> str:
    """Return a name of the model zoo as it is, and a file as an absolute path."""
    file = model_zoo.get_config_file(name)
    return name if name in model_zoo.names() else str(file.absolute())


def _chosen_values(cfg: CfgNode, options: Sequence[str]) -> dict[str, Any]:
    """Return the values of KEY VALUE pairs as the configuration has them."""
    merged = cfg.clone()
    merge(merged, "", options)
    return {key: reduce(getattr, key.split("."), merged) for key in options[::2]}


def _absolute(path: str) -> str:
    """Return an absolute path; names of models and addresses stay as they are."""
    file, question, query = path.partition("?")
    if not file or file in model_zoo.MODELS or not os.path.exists(file):
        return path
    return f"{os.path.abspath(file)}{question}{query}"


def _write_text(name: str, text: str) -> None:
    Path(name).write_text(text, encoding="utf-8")
