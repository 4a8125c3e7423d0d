"""Where data sets lie."""

from __future__ import annotations

import os
from pathlib import Path


def datasets_root() -> Path:
    """The folder of all data sets: `DETECTRON2_DATASETS`, or `datasets` where a program runs."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
