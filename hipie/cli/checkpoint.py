"""`hipie checkpoint inspect FILE` and `convert IN OUT`."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence

from detectron2.modeling import META_ARCH_REGISTRY

from hipie.checkpoint.base import CheckpointableModel
from hipie.checkpoint.converters.conversion import CheckpointConverter, convert_state
from hipie.checkpoint.export import to_half, write_state
from hipie.checkpoint.load import matches
from hipie.checkpoint.read import read_state, unwrap_names
from hipie.downloads import add_network_arguments
from hipie.error_report import one_line_errors
from hipie.errors import UsageError, printable
from hipie.model_zoo import weights_address
from hipie.registration import register_all
from hipie.result_files import is_same_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands.

    Returns:
        0.

    Raises:
        SystemExit: with one line about a file that cannot be used; see `one_line_errors`.
    """
    args = _parser().parse_args(arguments)
    with one_line_errors("hipie checkpoint"):
        args.run(args)
    return 0


def known_converters() -> tuple[CheckpointConverter, ...]:
    """Return the checkpoint converters of all registered architectures."""
    register_all()
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
    inspect = commands.add_parser("inspect", help="list the content of a file of weights")
    inspect.add_argument("file", help="a file, an address or a model's name")
    inspect.add_argument("--all", action="store_true", help="list every tensor with shape and type")
    add_network_arguments(inspect)
    inspect.set_defaults(run=_inspect)
    convert = commands.add_parser(
        "convert", help="write the weights alone, with the tensor names of this package"
    )
    convert.add_argument("file", help="a file, an address or a model's name")
    convert.add_argument("out", help="a .safetensors or .pth file")
    convert.add_argument(
        "--overwrite", action="store_true", help="replace the file OUT if there is one"
    )
    convert.add_argument("--half", action="store_true", help="in float16")
    convert.add_argument(
        "--exclude",
        nargs="*",
        default=[],
        metavar="PATTERN",
        help="prefixes or patterns of names that are left out",
    )
    add_network_arguments(convert)
    convert.set_defaults(run=_convert)
    return parser


def _inspect(args: argparse.Namespace) -> None:
    """Inspect and convert files of weights; code in a file is never run."""
    content = read_state(weights_address(args.file))
    converted = convert_state(unwrap_names(content.pop("model")), known_converters())
    count = sum(value.numel() for value in converted.state.values())
    size = sum(value.nbytes for value in converted.state.values()) / 2**20
    print(
        f"{args.file}: layout {converted.layout}, {len(converted.state)} tensors, {count:,} numbers"
    )
    print(f"  {size:.1f} MiB in memory, left out on purpose: {len(converted.dropped)}")
    if content:
        print(f"  other content: {', '.join(printable(key) for key in content)}")
    if args.all:
        for name, value in converted.state.items():
            print(
                f"  {printable(name)} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
            )
        return
    modules = Counter(name.split(".")[0] for name in converted.state)
    for module, tensors in modules.most_common():
        print(f"  {printable(module)}: {tensors} tensors")


def _convert(args: argparse.Namespace) -> None:
    if is_same_file(args.file, args.out):
        raise UsageError(f"{args.out} is the file that is converted; name another one")
    if os.path.lexists(args.out) and not args.overwrite:
        raise UsageError(f"{args.out} exists; name another file, or replace it with --overwrite")
    state = unwrap_names(read_state(weights_address(args.file))["model"])
    converted = convert_state(state, known_converters())
    exported = {
        name: to_half(value) if args.half else value
        for name, value in converted.state.items()
        if not any(matches(name, pattern) for pattern in args.exclude)
    }
    write_state(exported, args.out, {"layout": converted.layout})
    dropped = f", {len(converted.dropped)} left out on purpose" if converted.dropped else ""
    print(f"{args.out}: {len(exported)} tensors; layout {converted.layout}{dropped}")


if __name__ == "__main__":
    sys.exit(main())
