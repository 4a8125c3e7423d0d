"""The console script `hipie COMMAND ...`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import MutableMapping, Sequence
from importlib import import_module

from hipie import __version__
from hipie.error_report import run_program

# Command -> module with `main(arguments) -> int`, and the line about it in the help.
COMMANDS = {
    "segment": ("hipie.cli.segment", "segment things, stuff and parts by name"),
    "refer": ("hipie.cli.refer", "segment the object that an expression describes"),
    "group": ("hipie.cli.group", "segment one expression's object in several images"),
    "reason": ("hipie.cli.reason", "answer a question about an image with masks"),
    "demo": ("hipie.cli.demo", "segment images or the picture book, several tasks at once"),
    "train": ("hipie.cli.train", "train a model, on the CPU, GPUs or under torchrun"),
    "show": ("hipie.cli.show", "draw annotation beside prediction, worst images first"),
    "eval": ("hipie.cli.eval", "evaluate a model on the data sets of its configuration"),
    "app": ("hipie.cli.app", "a page in the browser that segments images"),
    "serve": ("hipie.cli.serve", "segment by HTTP requests"),
    "models": ("hipie.cli.models", "list models by name, download and verify their weights"),
    "checkpoint": ("hipie.cli.checkpoint", "inspect or convert files of weights"),
    "data": ("hipie.cli.data", "show or check a data set"),
    "export": ("hipie.cli.export", "export a model with its class names to ONNX or OpenVINO"),
    "doctor": ("hipie.cli.doctor", "report what is installed and which kernels run"),
}
# Iterations that a thread of OpenMP waits actively for the others before it sleeps. GNU's default,
# 300,000, gains a tenth on a quiet machine, and makes a model fourteen times slower on a busy one.
SPIN_COUNT = "10000"
# Commands that are also programs of their own, train_net.py and demo.py.
PROGRAMS = ("train", "demo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status of the command.

    Raises:
        SystemExit: after an error or Ctrl-C, see `hipie.error_report.one_line_errors`.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    command = _parser().parse_args(arguments[:1]).command
    return run_command(command, arguments[1:])


def run_command(command: str, arguments: Sequence[str], program: str = "") -> int:
    """Run the command of a name, also for a program that is nothing but this command.

    Args:
        command: a key of `COMMANDS`.
        arguments: those after the name.
        program: name of the program for messages; by default "hipie COMMAND".

    Returns:
        The exit status of the command.

    Raises:
        SystemExit: after an error or Ctrl-C, see `hipie.error_report.one_line_errors`.
    """
    program = program or f"hipie {command}"
    shorten_active_waiting(os.environ)
    # Detectron2 causes it at every import with a recent PyTorch.
    warnings.filterwarnings("ignore", r"`?torch\.jit", category=FutureWarning)

    def run() -> int:
        # The import is inside: a package that is missing or broken is an error of the command.
        command_main = import_module(COMMANDS[command][0]).main
        status: int = command_main(arguments, *([program] if command in PROGRAMS else []))
        return status

    return run_program(program, run)


def shorten_active_waiting(environment: MutableMapping[str, str]) -> None:
    """Let threads of OpenMP sleep soon when they wait, so that they leave the cores to others.

    OpenMP reads its variables when PyTorch loads it, so a program can set them and a library
    cannot. Variables of the user about it stay as they are. See `benchmarks/wait_policy.py`.

    Args:
        environment: of this process, which those that it starts inherit.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


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
    parser.add_argument("--version", action="version", version=f"hipie {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
