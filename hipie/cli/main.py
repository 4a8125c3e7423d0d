"""The console script `hipie COMMAND ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

# Exit status of a program that Ctrl-C ended.
INTERRUPTED = 130
# Command -> module with `main(arguments) -> int`, and the line about it in the help.
COMMANDS = {
    "segment": ("hipie.cli.segment", "segment things, stuff and parts by name"),
    "refer": ("hipie.cli.refer", "segment the object that an expression describes"),
    "group": ("hipie.cli.group", "segment one expression's object in several images"),
    "demo": ("hipie.cli.demo", "segment images or the picture book, several tasks at once"),
    "train": ("hipie.cli.train", "train a model, on the CPU, GPUs or under torchrun"),
    "eval": ("hipie.cli.eval", "evaluate a model on the data sets of its configuration"),
    "checkpoint": ("hipie.cli.checkpoint", "inspect or convert files of weights"),
    "data": ("hipie.cli.data", "show or check a data set"),
    "doctor": ("hipie.cli.doctor", "report what is installed and which kernels run"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status of the command; 130 after Ctrl-C.

    Raises:
        SystemExit: with one line about input that cannot be used.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = _parser().parse_args(arguments[:1]).command
    module, _ = COMMANDS[command]
    try:
        return import_module(module).main(arguments[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"hipie {command}: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="hipie",
        usage="hipie COMMAND ...",
        description="Segment images by class names and expressions.",
        epilog="\n".join(["commands:", *lines, "", "Run hipie COMMAND --help for its arguments."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
