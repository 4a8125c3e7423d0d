"""Projects that add architectures and keys: entry points of the group `hipie.projects`."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint, entry_points
from typing import Any

logger = logging.getLogger(__name__)
GROUP = "hipie.projects"


def load_projects(cfg: Any) -> list[str]:
    """Import every installed project and add its keys.

    Each entry point names a function `add_<package>_config(cfg)`; importing its module registers
    the project's architectures. A project that fails is reported in one line and skipped.

    Args:
        cfg: the configuration, changed in place.

    Returns:
        Names of the projects that were loaded.
    """
    loaded = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if _add(point, cfg):
            loaded.append(point.name)
    return loaded


def _add(point: EntryPoint, cfg: Any) -> bool:
    try:
        point.load()(cfg)
    except Exception as error:  # whatever a project does wrong, the others must work
        logger.warning("project %s is skipped: %s: %s", point.name, type(error).__name__, error)
        return False
    return True
