"""`hipie models list`: models by name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from hipie import model_zoo
from hipie.model_zoo.models import Model, PackagedFile
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


def _row(model: Model) -> dict[str, Any]:
    """Return what is listed of a model."""
    file = model_zoo.get_weights(model.config) if isinstance(model.source, PackagedFile) else None
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
