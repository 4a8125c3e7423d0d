"""`python -m hipie.checkpoint inspect FILE` and `convert IN OUT`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from hipie.checkpoint.files import CheckpointError, read_state, write_atomically
from hipie.checkpoint.formats import to_ours


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the two commands; errors end it with one sentence."""
    parser = argparse.ArgumentParser(prog="python -m hipie.checkpoint")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what a file of weights holds")
    inspect.add_argument("file", type=Path)
    convert = commands.add_parser("convert", help="weights alone, as safetensors or .pth")
    convert.add_argument("file", type=Path)
    convert.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    try:
        _inspect(args.file) if args.command == "inspect" else _convert(args.file, args.out)
    except CheckpointError as error:
        sys.exit(str(error))


def _inspect(path: Path) -> None:
    content = read_state(path)
    ours, dropped, layout = to_ours(content.pop("model"))
    rooms = Counter(key.split(".")[0] for key in ours)
    numbers = sum(value.numel() for value in ours.values() if torch.is_tensor(value))
    print(f"{path}: {layout} layout, {len(ours)} tensors, {numbers:,} numbers")
    for room, count in rooms.most_common():
        print(f"  {room}: {count}")
    if dropped:
        print(f"  left out: {len(dropped)}")
    if content:
        print(f"  besides: {', '.join(sorted(content))}")


def _convert(path: Path, out: Path) -> None:
    ours, _, _ = to_ours(read_state(path)["model"])
    tensors = {key: value.contiguous() for key, value in ours.items()}
    if out.suffix == ".safetensors":
        write_atomically(out, lambda name: save_file(tensors, name))
    else:
        write_atomically(out, lambda name: torch.save({"model": tensors}, name))
    print(f"{len(tensors)} tensors are in {out}")


if __name__ == "__main__":
    main()
