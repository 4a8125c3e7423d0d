"""A model without weights for runs on a cluster, and the images that it segments."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from hipie.errors import InputError
from tests.batch_inference.stub import IDENTITY, SETTINGS, segment

CLASSES = {"dog": "thing", "cat": "thing", "grass": "stuff", "head": "part"}
CONTENT = {"identity": IDENTITY, "settings": SETTINGS, "max_pixels": 10**6, "classes": CLASSES}


class Build:
    """Builds the stub, which notes in a folder what it has segmented.

    Its process ends at images with the values 100 (once) and 101 (always). It runs out of memory
    for 102, and does not like its class names for 103.
    """

    def __init__(self, folder: str | Path = "", seconds: float = 0.0, **content: object) -> None:
        self.folder, self.seconds = str(folder), seconds
        self.content = CONTENT | content

    def __call__(self):
        ray = sys.modules.get("ray")
        if self.folder and ray is not None and ray.is_initialized():
            actor_id = ray.get_runtime_context().get_actor_id()
            if actor_id is not None:
                Path(self.folder, f"actor_{actor_id}_{os.getpid()}").touch()
        return self.segment, self.content

    def segment(self, pixels):
        """Segment an image."""
        value = int(pixels[0, 0, 0])
        time.sleep(self.seconds)
        if self.folder:
            with open(f"{self.folder}/calls", "a") as file:
                file.write(f"{value}\n")
            if value == 101 or (value == 100 and not os.path.exists(f"{self.folder}/once")):
                Path(self.folder, "once").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if value == 102:
            raise MemoryError
        if value == 103:
            raise InputError("these are no class names")
        return segment(pixels)

    def calls(self) -> list[int]:
        """Return the values of the images that were segmented, in order."""
        path = Path(self.folder, "calls")
        return [int(line) for line in path.read_text().split()] if path.exists() else []
