"""Projects that add architectures and keys: entry points of the group `hipie.projects`."""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
GROUP = "hipie.projects"


def load_projects(cfg: Any) -> list[str]:
    """Import every installed project and add its keys.

    Each entry point names a function `add_<package>_config(cfg)`; importing its module registers
    the project's architectures. A project that fails is reported in one line and skipped, and
    leaves no key behind.

    Args:
        cfg: the configuration, changed in place.

    Returns:
        Names of the projects that were loaded, in order.
    """
    return [point.name for point in _installed() if _add(point, cfg)]


def project_folders() -> dict[str, Path]:
    """Where the packages of installed projects lie, by their names; nothing is imported."""
    found = {}
    for point in _installed():
        spec = find_spec(point.module.partition(".")[0])
        if spec is not None and spec.submodule_search_locations:
            found[spec.name] = Path(spec.submodule_search_locations[0])
    return found


def _installed() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _add(point: EntryPoint, cfg: Any) -> bool:
    try:
        add = point.load()
        add(cfg.clone())
    except Exception as error:  # noqa: BLE001  whatever one project does wrong, others must work
        said = " ".join(str(error).split()) or "no reason given"
        logger.warning("project %s is skipped: %s: %s", point.name, type(error).__name__, said)
        return False
    add(cfg)
    return True
