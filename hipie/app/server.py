"""Start and end of the page's server."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from hipie.app.requests import UPLOADS_VARIABLE, Limits

# Browser sessions whose results are kept.
MAX_SESSIONS = 32


def prepare_environment(folder: Path) -> None:
    """Keep gradio from sending statistics, and let it write below a folder; before its import."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ[UPLOADS_VARIABLE] = str(folder / "uploads")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def run(
    build: Callable[[Path], Any],
    host: str,
    port: int,
    limits: Limits,
    on_start: Callable[[str], None],
    *,
    open_browser: bool = False,
) -> int:
    """Serve a page until SIGTERM or SIGINT. Call it in the main thread.

    Args:
        build: makes the `gradio.Blocks`; called with a folder that is removed at the end, with
            the uploads in it.
        host: address to listen at.
        port: to listen at.
        limits: of uploads.
        on_start: called with the address once the page can be opened.
        open_browser: whether to open it in the user's browser.

    Returns:
        The exit status: 0 after SIGTERM, 130 after SIGINT.
    """
    stopped = threading.Event()
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        stopped.set()

    with tempfile.TemporaryDirectory(prefix="hipie-app-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        prepare_environment(folder)
        from hipie.app.page import CSS, theme

        page = build(folder)
        numbers = (signal.SIGTERM, signal.SIGINT)
        previous = {number: signal.signal(number, stop) for number in numbers}
        try:
            _, address, _ = page.queue(max_size=64).launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                show_error=False,
                inbrowser=open_browser,
                max_file_size=limits.bytes,
                state_session_capacity=MAX_SESSIONS,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                footer_links=[],
                allowed_paths=[str(folder)],
                theme=theme(),
                css=CSS,
            )
            on_start(address)
            while not stopped.wait(0.5):
                pass
        finally:
            page.close(verbose=False)
            for number, handler in previous.items():
                signal.signal(number, handler)
    return 130 if received and received[0] == signal.SIGINT else 0
