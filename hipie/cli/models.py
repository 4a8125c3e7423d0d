"""`hipie models list`, `download NAME` and `verify`: models by name."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from hipie import model_zoo
from hipie.downloads import add_network_arguments
from hipie.model_zoo.models import Model
from hipie.registration import register_all


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status.

    Raises:
        HipieError: with one sentence, for a model that is unknown or not available.
    """
    args = _parser().parse_args(arguments)
    register_all()  # projects register their models
    status: int = args.run(args)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hipie models", description="Models by name.")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="list the models: task, size, licence, place")
    listing.add_argument("--json", action="store_true", help="as JSON")
    listing.set_defaults(run=_list)
    download = commands.add_parser("download", help="download weights, and check them")
    download.add_argument("names", nargs="+", metavar="NAME", help="see hipie models list")
    add_network_arguments(download)
    download.set_defaults(run=_download)
    verify = commands.add_parser("verify", help="check the weights on this machine again")
    verify.add_argument("names", nargs="*", metavar="NAME", help="by default all")
    verify.set_defaults(run=_verify)
    return parser


def _list(args: argparse.Namespace) -> int:
    """Print the table of models."""
    rows = [_row(model) for model in model_zoo.MODELS.values()]
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    lines = [("name", "task", "size", "licence", "on disk")]
    lines += [
        (row["name"], row["task"], shown_size(row["size"]), row["licence"], row["file"] or "no")
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        columns = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        print("  ".join(columns).rstrip())
    return 0


def _download(args: argparse.Namespace) -> int:
    """Download what is not on this machine, and print the files."""
    models = [model_zoo.find_model(name) for name in args.names]
    for model in models:
        print(f"{model.name}: {model_zoo.download_weights(model)}", flush=True)
        if model.is_package_missing:
            module, extra = model.requires
            print(f'its use needs the package {module}: pip install "hipie[{extra}]"', flush=True)
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Print the result of every model; the exit status is 1 if a file is not the model's."""
    names = args.names or list(model_zoo.MODELS)
    status = 0
    for model in [model_zoo.find_model(name) for name in names]:
        try:
            file = model_zoo.verify_weights(model)
        except model_zoo.ModelError as error:
            print(f"{model.name}: {error}", file=sys.stderr, flush=True)
            status = 1
            continue
        if file is not None or args.names:
            print(f"{model.name}: {f'{file} is correct' if file else 'not on this machine'}")
    return status


def _row(model: Model) -> dict[str, Any]:
    """Return what is listed of a model."""
    file = model_zoo.weights_on_disk(model)
    size = file.stat().st_size if file else getattr(model.source, "size", 0)
    return {
        "name": model.name,
        "task": model.task,
        "size": size or None,
        "licence": model.licence,
        "config": model.config or None,
        "file": str(file) if file else None,
    }


def shown_size(size: int | None) -> str:
    """Return a size in bytes as text: "2.4 GB"; "?" if it is unknown."""
    if not size:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
