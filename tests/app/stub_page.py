"""Program that serves the page with models without a network: python stub_page.py.

Of its models "quick" is ready at once, "slow" is never loaded, and the load of "broken" fails.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from hipie.error_report import run_program

MAX_BYTES, MAX_PIXELS = 2_000_000, 1_000_000


def main() -> int:
    """Serve; imports are inside, as in the commands, so that warnings of packages are not shown."""
    from hipie.app import server
    from hipie.app.requests import Limits
    from hipie.listening import listen

    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    limits = Limits(bytes=MAX_BYTES, pixels=MAX_PIXELS)
    start = lambda address: print(address, flush=True)  # noqa: E731
    return server.run(lambda folder: _page(folder, limits), "127.0.0.1", port, limits, start)


def _page(folder: Path, limits: object) -> object:
    from hipie.app.context import Context, draw_examples
    from hipie.app.downloads import Downloads
    from hipie.app.models import ModelPool, ModelSpec
    from hipie.app.page import build
    from hipie.app.requests import Requests
    from hipie.app.work import Worker
    from hipie.errors import InputError
    from tests.serve.stub_segmenter import StubSegmenter

    class Segmenter(StubSegmenter):
        """Calls of an expression "wait" take a second."""

        def __init__(self) -> None:
            super().__init__()
            self.model.tasks = frozenset({"universal", "referring"})
            self.cfg = SimpleNamespace(
                INPUT=SimpleNamespace(MAX_PIXELS=MAX_PIXELS), defrost=lambda: None
            )

        def segment(self, image, things, stuff, parts, **_):
            names = [names[0] for names in (*things, *stuff)]
            return self._result(self.prepare(image), names)

        def refer(self, image, expressions=(), **_):
            expressions = [expressions] if isinstance(expressions, str) else expressions
            time.sleep("wait" in expressions)
            return self._result(self.prepare(image), expressions)

        def prompt(self, image, prompts=()):
            return self._result(self.prepare(image), ["object"])

        def like(self, image, examples):
            return self._result(self.prepare(image), [examples[0][2]])

    class Spec(ModelSpec):
        def load(self, device):
            if self.name == "slow":
                threading.Event().wait()
            if self.name == "broken":
                raise InputError("weights.pth is cut short")
            return Segmenter()

    names = ["quick", "slow", "broken"]
    pool = ModelPool([Spec(name, name) for name in names])
    pool.start("quick")
    return build(
        Context(
            pool=pool,
            requests=Requests(pool, limits),
            worker=Worker(),
            downloads=Downloads(folder / "results"),
            text_models=names,
            group_model="quick",
            click_model="quick",
            example_model="quick",
            examples=draw_examples(folder),
        )
    )


if __name__ == "__main__":
    sys.exit(run_program("stub", main))
