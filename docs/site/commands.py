"""Reference of the commands: what each parser of a command line accepts, from the parser itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from hipie.cli import data
from hipie.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
# Modules of projects that are programs, `python -m NAME`.
PROGRAMS = ("hipie_interactive", "hipie_fewshot", "hipie_classical")
WIDTH = "90"


class _Stopped(BaseException):
    """Carries the parser of a program past its handlers of errors."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


@dataclass
class Command:
    """A command with its parser.

    Attributes:
        name: such as "hipie segment".
        summary: one line; "" if the parser's description is all there is.
        parser: it has no arguments if there are subcommands only.
        subcommands: those of `add_subparsers` and of tables of modules.
    """

    name: str
    summary: str
    parser: argparse.ArgumentParser | None
    subcommands: list[Command] = field(default_factory=list)


def all_commands() -> list[Command]:
    """Return every command of the console script and every program of the repository."""
    commands = []
    for name, (module, summary) in COMMANDS.items():
        if name == "data":
            inner = [
                _command(f"hipie data {action}", "", import_module(target).main)
                for action, target in data.COMMANDS.items()
            ]
            commands.append(Command("hipie data", summary, None, inner))
        else:
            commands.append(_command(f"hipie {name}", summary, import_module(module).main))
    for package in PROGRAMS:
        main = import_module(f"{package}.__main__").main
        commands.append(_command(f"python -m {package}", "", main))
    return commands


def preparation_programs() -> list[Command]:
    """Return the programs that prepare data sets."""
    return [
        _command(f"python datasets/{file.name}", "", _module(file).main)
        for file in sorted((ROOT / "datasets").glob("prepare_*.py"))
    ]


def _module(file: Path) -> Any:
    spec = spec_from_file_location(f"docs_site_{file.stem}", file)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _command(name: str, summary: str, main: Callable[[Sequence[str]], Any]) -> Command:
    parser = parser_of(main, name)
    parser.prog = name
    command = Command(name, summary, parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for inner, inner_parser in action.choices.items():
                inner_parser.prog = f"{name} {inner}"
                command.subcommands.append(
                    Command(inner_parser.prog, helps.get(inner, ""), inner_parser)
                )
    return command


def parser_of(main: Callable[[Sequence[str]], Any], name: str) -> argparse.ArgumentParser:
    """Return the parser with which a program reads its command line.

    Args:
        main: the program; it is stopped where it would read the arguments.
        name: for the message.

    Raises:
        RuntimeError: if it reads none.
    """
    with _stopped_parsers():
        argv = sys.argv
        sys.argv = [name]
        try:
            main([])
        except _Stopped as stopped:
            return stopped.parser
        finally:
            sys.argv = argv
    raise RuntimeError(f"{name} reads no command line")


@contextmanager
def _stopped_parsers() -> Iterator[None]:
    methods = {
        method: getattr(argparse.ArgumentParser, method)
        for method in ("parse_args", "parse_known_args", "parse_intermixed_args")
    }

    def stop(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise _Stopped(self)

    for method in methods:
        setattr(argparse.ArgumentParser, method, stop)
    try:
        yield
    finally:
        for method, original in methods.items():
            setattr(argparse.ArgumentParser, method, original)


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments of a parser that its help lists, without --help and subcommands."""
    return [
        action
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        and not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
    ]


def invocation(action: argparse.Action) -> str:
    """Return how an argument is written, such as "--output DIR"."""
    formatter = argparse.HelpFormatter("")
    if not action.option_strings:
        return formatter._metavar_formatter(action, action.dest)(1)[0]
    value = ""
    if action.nargs != 0:
        value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
        if action.nargs == argparse.REMAINDER:
            value = f"{action.metavar} ..."
    return ", ".join(f"{flag} {value}".strip() for flag in action.option_strings)


def help_of(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return the help of an argument with its default and choices, as one paragraph."""
    formatter = argparse.HelpFormatter(parser.prog)
    text = " ".join(formatter._expand_help(action).split()) if action.help else ""
    if action.choices is not None and action.metavar is not None:
        text += f" (one of {', '.join(str(choice) for choice in action.choices)})"
    plain = action.default not in (None, False, argparse.SUPPRESS, "", [], ())
    if plain and "default" not in text and action.option_strings:
        text += f" (default: {action.default})"
    return text.strip()


def section(command: Command, level: int = 2) -> str:
    """Return the section of one command, and below it those of its subcommands."""
    parts = [f"{'#' * level} {command.name} {{ #{command.name.replace(' ', '-')} }}\n"]
    if command.summary:
        parts.append(f"{escaped(command.summary[0].upper() + command.summary[1:])}.\n")
    parser = command.parser
    if parser is not None:
        parts += _parser_text(parser)
    parts += [section(inner, level + 1) for inner in command.subcommands]
    return "\n".join(parts)


def _parser_text(parser: argparse.ArgumentParser) -> list[str]:
    usage = parser.format_usage().removeprefix("usage: ").rstrip().replace("\n       ", "\n")
    parts = [f"```text\n{usage}\n```\n"]
    for text in (parser.description, parser.epilog):
        if text and "\n" in text.strip():
            parts.append(f"```text\n{text.strip()}\n```\n")
        elif text:
            parts.append(escaped(text.strip()) + "\n")
    rows = [
        f"`{invocation(action)}`\n:   {escaped(help_of(parser, action)) or '(no description)'}\n"
        for action in options(parser)
    ]
    return parts + rows


def escaped(text: str) -> str:
    """Return plain text as Markdown."""
    for character in ("\\", "*", "_", "<", "[", "`"):
        text = text.replace(character, "&lt;" if character == "<" else "\\" + character)
    return text


def pages() -> dict[str, str]:
    """Return the pages of the reference: Markdown by path below `reference/`."""
    commands, programs = all_commands(), preparation_programs()
    return {
        "commands.md": "# Commands\n\nEvery command prints its arguments with `--help`.\n\n"
        + "\n".join(section(command) for command in commands),
        "preparation.md": "# Programs that prepare data sets\n\n"
        "[datasets/README.md](../datasets/README.md) has the folders that they write.\n\n"
        + "\n".join(section(command) for command in programs),
    }
