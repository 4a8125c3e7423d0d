"""`hipie app`: a page in the browser that segments images."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie import model_zoo
from hipie.cli.arguments import add_model_arguments, require_no_other_model
from hipie.errors import MissingPackageError, UsageError
from hipie.listening import listen

if TYPE_CHECKING:
    from hipie.app.models import ModelSpec


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until SIGTERM or Ctrl-C.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status: 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        HipieError: with one sentence, for a port that is in use or a model that is unknown.
    """
    args = _parser().parse_args(arguments)
    require_no_other_model(args)
    from hipie.app.requests import Limits

    limits = Limits(bytes=args.max_bytes, pixels=args.max_pixels)
    if min(limits.bytes, limits.pixels) < 1:
        raise UsageError("--max-bytes and --max-pixels have to be at least 1")
    listener = listen(args.host, args.port)
    port = listener.getsockname()[1]
    # gradio opens the port itself; a port in use is noticed here, before models are loaded.
    listener.close()
    from hipie.app import server

    def start(address: str) -> None:
        print(f"{address} is the page; Ctrl-C ends it", flush=True)

    try:
        return server.run(
            lambda folder: _page(args, limits, folder),
            args.host,
            port,
            limits,
            start,
            open_browser=args.browser,
        )
    except ModuleNotFoundError as error:
        if error.name == "gradio":
            raise MissingPackageError(
                "hipie app needs the package gradio, which is not installed: "
                'pip install "hipie[app]"'
            ) from error
        raise


def _page(args: argparse.Namespace, limits: Any, folder: Path) -> Any:
    """Build the page with the models of the command line, and begin to load the first one."""
    import gradio  # noqa: F401 - the sentence about its absence comes before any work

    from hipie.app.context import Context, draw_examples
    from hipie.app.downloads import Downloads
    from hipie.app.models import ModelPool, ModelSpec, known_models
    from hipie.app.page import build
    from hipie.app.requests import Requests
    from hipie.app.work import Worker

    text_models = known_models()
    given = _given_model(args)
    if given is not None:
        text_models = [given, *(spec for spec in text_models if spec.name != given.name)]
    if not text_models:
        raise UsageError("there is no model with weights on this machine: name one by --model")
    special = [
        ModelSpec(source, source, options=tuple(shlex.split(options)))
        for source, options in (
            (args.click_model, args.click_opts),
            (args.example_model, args.example_opts),
        )
        if source
    ]
    pool = ModelPool([*text_models, *special], args.device)
    names = [spec.name for spec in text_models]
    context = Context(
        pool=pool,
        requests=Requests(pool, limits),
        worker=Worker(),
        downloads=Downloads(folder / "results"),
        text_models=names,
        group_model=_group_model(text_models),
        click_model=args.click_model,
        example_model=args.example_model,
        advice={
            "click_model": _advice("clicks", "--click-model", "interactive"),
            "example_model": _advice("examples", "--example-model", "few_shot"),
        },
        examples=draw_examples(folder),
    )
    pool.start(names[0])
    return build(context)


def _given_model(args: argparse.Namespace) -> ModelSpec | None:
    """The model of `--model`, `--config-file` and `--weights`; None without them."""
    from hipie.app.models import ModelSpec

    source = args.model or args.config_file or args.weights
    if not source:
        return None
    weights = (args.weights or "") if args.config_file else ""
    return ModelSpec(source, source, weights, tuple(args.opts))


def _group_model(models: Sequence[ModelSpec]) -> str:
    """Name of the first model that compares the images of a group; else of the first one."""
    suitable = model_zoo.configs_for_task("group", trained=True)
    table = model_zoo.MODELS
    for spec in models:
        if spec.source in table and table[spec.source].config in suitable:
            return spec.name
    return models[0].name


def _advice(what: str, flag: str, task: str) -> str:
    names = ", ".join(model_zoo.configs_for_task(task)) or "none that is installed"
    return (
        f"There is no model for {what}: start `hipie app {flag} NAME`. Configurations whose model "
        f"can use them are {names}."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hipie app", description="A page in the browser that segments images."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (this machine)")
    parser.add_argument("--port", type=int, default=7860, help="0 for a free one")
    parser.add_argument("--browser", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--click-model",
        default="",
        metavar="NAME",
        help="configuration or folder of a model for the tab Click",
    )
    parser.add_argument(
        "--click-opts", default="", metavar="TEXT", help='"KEY VALUE KEY VALUE" for it'
    )
    parser.add_argument(
        "--example-model",
        default="",
        metavar="NAME",
        help="configuration or folder of a model for the tab Example",
    )
    parser.add_argument(
        "--example-opts", default="", metavar="TEXT", help='"KEY VALUE KEY VALUE" for it'
    )
    for flag, default, text in (
        ("--max-bytes", 20_000_000, "of an uploaded file"),
        ("--max-pixels", 25_000_000, "of an image"),
    ):
        parser.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{text} ({default:,})"
        )
    add_model_arguments(parser)
    return parser
