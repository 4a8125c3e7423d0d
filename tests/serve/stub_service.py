"""Program that serves the stub: python stub_service.py SECONDS_OF_A_CALL [SECONDS_OF_THE_LOAD]."""

from __future__ import annotations

import sys
import time

from hipie.error_report import run_program


def main() -> int:
    """Serve; imports are inside, as in the commands, so that warnings of packages are not shown."""
    from hipie.errors import InputError
    from hipie.listening import address_of, listen
    from hipie.serve import server
    from hipie.serve.settings import Limits
    from tests.serve.stub_segmenter import StubSegmenter

    seconds, load_seconds = (float(text) for text in (*sys.argv[1:], "0")[:2])

    def load() -> StubSegmenter:
        if load_seconds < 0:
            raise InputError("weights.pth is cut short")
        time.sleep(load_seconds)
        return StubSegmenter(seconds)

    listener = listen("127.0.0.1", 0)
    print(address_of(listener, "127.0.0.1"), flush=True)
    limits = Limits(queue=12, upload_timeout=2, body_bytes=1_000_000)
    return server.run(listener, "stub", load, limits)


if __name__ == "__main__":
    sys.exit(run_program("stub", main))
