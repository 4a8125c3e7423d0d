"""`hipie checkpoint inspect FILE` and `convert IN OUT`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from detectron2.modeling import META_ARCH_REGISTRY

from hipie.checkpoint.base import CheckpointableModel
from hipie.checkpoint.converters.conversion import CheckpointConverter, convert_state
from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.export import in_half, write_state
from hipie.checkpoint.read import read_state, strip_module_prefix


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands; 0, or 1 after one sentence on an error."""
    args = _parser().parse_args(arguments)
    try:
        args.run(args)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def known_converters() -> tuple[CheckpointConverter, ...]:
    """Return the checkpoint converters of all registered architectures."""
    from hipie.modeling.meta_arch import hipie  # noqa: F401  registers HIPIE

    architectures = [architecture for _, architecture in META_ARCH_REGISTRY]
    converters = [
        converter
        for architecture in architectures
        if issubclass(architecture, CheckpointableModel)
        for converter in architecture.checkpoint_converters()
    ]
    return tuple(dict.fromkeys(converters))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hipie checkpoint", description=_inspect.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="what a file of weights holds")
    inspect.add_argument("file", help="a file, detectron2://... or https://...")
    inspect.add_argument("--all", action="store_true", help="every tensor, with shape and type")
    inspect.set_defaults(run=_inspect)
    convert = commands.add_parser("convert", help="the weights alone, under our names")
    convert.add_argument("file", help="a file, detectron2://... or https://...")
    convert.add_argument("out", help="a .safetensors or .pth file")
    convert.add_argument("--half", action="store_true", help="in float16")
    convert.add_argument(
        "--exclude", nargs="*", default=[], metavar="PREFIX", help="names that begin so stay out"
    )
    convert.set_defaults(run=_convert)
    return parser


def _inspect(args: argparse.Namespace) -> None:
    """Look into files of weights, and convert them; nothing in a file is ever run."""
    content = read_state(args.file)
    found = convert_state(strip_module_prefix(content.pop("model")), known_converters())
    numbers = sum(value.numel() for value in found.state.values())
    size = sum(value.nbytes for value in found.state.values()) / 2**20
    print(f"{args.file}: layout {found.layout}, {len(found.state)} tensors, {numbers:,} numbers")
    print(f"  {size:.1f} MiB in memory, left out on purpose: {len(found.dropped)}")
    if content:
        print(f"  besides: {', '.join(map(str, content))}")
    if args.all:
        for name, value in found.state.items():
            print(f"  {name} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}")
        return
    for room, count in Counter(name.split(".")[0] for name in found.state).most_common():
        print(f"  {room}: {count} tensors")


def _convert(args: argparse.Namespace) -> None:
    found = convert_state(strip_module_prefix(read_state(args.file)["model"]), known_converters())
    state = {
        name: in_half(value) if args.half else value
        for name, value in found.state.items()
        if not name.startswith(tuple(args.exclude))
    }
    write_state(state, args.out, {"layout": found.layout})
    print(f"{args.out}: {len(state)} tensors; layout {found.layout}", end="")
    print(f", {len(found.dropped)} left out on purpose" if found.dropped else "")


if __name__ == "__main__":
    sys.exit(main())
