"""`hipie checkpoint inspect FILE`, `convert IN OUT` and `average FILE FILE ... --output OUT`."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence

from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.checkpoint.average import average_states
from hipie.checkpoint.base import CheckpointableModel
from hipie.checkpoint.converters.conversion import (
    CheckpointConverter,
    Conversion,
    convert_state,
)
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
    """Run one of the commands.

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
        "--exclude",
        nargs="*",
        default=[],
        metavar="PATTERN",
        help="prefixes or patterns of names that are left out",
    )
    convert.set_defaults(run=_convert)
    average = commands.add_parser(
        "average", help="write the weighted mean of the weights of several trainings of one model"
    )
    average.add_argument("files", nargs="+", metavar="FILE", help="files, addresses or names")
    average.add_argument(
        "--output", dest="out", required=True, metavar="OUT", help="a .safetensors or .pth file"
    )
    average.add_argument(
        "--weights", nargs="+", type=float, default=[], help="of the files, with a sum of 1"
    )
    average.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="PATTERN",
        help="prefixes or patterns of the names that are averaged; others are the first file's",
    )
    average.set_defaults(run=_average)
    for command in (convert, average):
        command.add_argument(
            "--overwrite", action="store_true", help="replace the file OUT if there is one"
        )
        command.add_argument("--half", action="store_true", help="in float16")
        add_network_arguments(command)
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
    _check_output([args.file], args.out, args.overwrite)
    converted = _converted(args.file)
    exported = {
        name: value
        for name, value in converted.state.items()
        if not any(matches(name, pattern) for pattern in args.exclude)
    }
    _write(exported, args, {"layout": converted.layout})
    dropped = f", {len(converted.dropped)} left out on purpose" if converted.dropped else ""
    print(f"{args.out}: {len(exported)} tensors; layout {converted.layout}{dropped}")


def _average(args: argparse.Namespace) -> None:
    _check_output(args.files, args.out, args.overwrite)
    if len(set(args.files)) < len(args.files):
        raise UsageError("a file is named twice")
    states = {file: _converted(file).state for file in args.files}
    averaged = average_states(states, args.weights, args.only)
    weights = " ".join(f"{weight:g}" for weight in args.weights) or "equal"
    _write(averaged, args, {"averaged": f"{' '.join(args.only).strip() or 'all'}, {weights}"})
    print(f"{args.out}: {len(averaged)} tensors; mean of {len(states)} files, weights {weights}")


def _converted(file: str) -> Conversion:
    return convert_state(
        unwrap_names(read_state(weights_address(file))["model"]), known_converters()
    )


def _check_output(files: Sequence[str], out: str, overwrite: bool) -> None:
    for file in files:
        if is_same_file(file, out):
            raise UsageError(f"{out} is a file that is read; name another one")
    if os.path.lexists(out) and not overwrite:
        raise UsageError(f"{out} exists; name another file, or replace it with --overwrite")


def _write(state: dict[str, Tensor], args: argparse.Namespace, notes: dict[str, str]) -> None:
    written = {name: to_half(value) if args.half else value for name, value in state.items()}
    write_state(written, args.out, notes)


if __name__ == "__main__":
    sys.exit(main())
