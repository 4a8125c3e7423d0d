"""Command `hipie data`: `show DATASET` draws a data set, `check` checks it.

`expressions` makes referring expressions from its objects, `convert SOURCE` a training set from
annotations of other tools, `pseudo-label` masks from boxes, points or scribbles, `from-tags` masks
from the names of what images show.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

# Modules with `main(arguments) -> int`, imported when they run: the help needs none of them.
COMMANDS = {
    "show": "hipie.cli.data_show",
    "check": "hipie.cli.data_check",
    "expressions": "hipie.cli.data_expressions",
    "convert": "hipie.cli.data_convert",
    "pseudo-label": "hipie.cli.data_pseudo_label",
    "from-tags": "hipie.cli.data_from_tags",
}
USAGE = (
    "usage: hipie data {show,check,expressions,pseudo-label} DATASET ... or "
    "hipie data {convert,from-tags} SOURCE ...; add "
    "--help for the arguments; --model NAME is the --config-file of a model"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status of the command; 2 for an unknown command.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments and arguments[0] in COMMANDS:
        status: int = import_module(COMMANDS[arguments[0]]).main(_with_configuration(arguments[1:]))
        return status
    help_requested = bool(arguments) and arguments[0] in ("-h", "--help")
    print(USAGE, file=sys.stdout if help_requested else sys.stderr)
    return 0 if help_requested else 2


def _with_configuration(arguments: Sequence[str]) -> list[str]:
    """Replace `--model NAME` by `--config-file` with the file of that model."""
    from hipie.errors import UsageError

    end = list(arguments).index("--opts") if "--opts" in arguments else len(arguments)
    own, options = list(arguments[:end]), list(arguments[end:])
    if "--model" not in own:
        return [*own, *options]
    place = own.index("--model")
    if place + 1 == len(own) or "--config-file" in own:
        raise UsageError(
            "--model needs a name, and brings its configuration instead of --config-file"
        )
    from hipie.model_zoo import model_config

    own[place : place + 2] = ["--config-file", model_config(own[place + 1])]
    return [*own, *options]


if __name__ == "__main__":
    sys.exit(main())
