"""Projects that add architectures and configuration keys: entry points of `hipie.projects`.

An entry point names a function `add_<package>_config(cfg)`; importing its module registers the
project's architectures, data sets, evaluators and dataset mappers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hipie.errors import InputError
from hipie.logs import get_logger

logger = get_logger(__name__)
GROUP = "hipie.projects"


class ProjectError(InputError):
    """A project that is used and could not be loaded; the message names it and the reason."""


@dataclass(frozen=True)
class Projects:
    """Installed projects after the attempt to load them.

    Attributes:
        add_config: function that adds the keys of each loaded project, by the project's name.
        errors: reason why each other project could not be loaded, by the project's name.
    """

    add_config: dict[str, Callable[[Any], None]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def fail(self, name: str, error: Exception) -> None:
        """Record that a project does not work, and warn about it in one line."""
        message = " ".join(str(error).split()) or "no reason given"
        self.add_config.pop(name, None)
        self.errors[name] = f"{type(error).__name__}: {message}"
        logger.warning("project %s is skipped: %s", name, self.errors[name])


@cache
def load_projects() -> Projects:
    """Import every installed project, once a process.

    A project whose import fails is reported by one warning and skipped; using it is an error then
    (see `require_project`).
    """
    projects = Projects()
    for point in _entry_points():
        try:
            projects.add_config[point.name] = point.load()
        except Exception as error:  # noqa: BLE001  a broken project must not harm others
            projects.fail(point.name, error)
    return projects


def add_project_configs(cfg: Any) -> None:
    """Add the keys of every loaded project to a configuration, in place.

    A project whose function fails is reported by one warning and leaves no key behind.

    Args:
        cfg: Detectron2's configuration node.
    """
    projects = load_projects()
    for name, add_config in list(projects.add_config.items()):
        try:
            add_config(cfg.clone())
        except Exception as error:  # noqa: BLE001  a broken project must not harm others
            projects.fail(name, error)
        else:
            add_config(cfg)


def project_names() -> list[str]:
    """Names of the loaded projects, in order."""
    return list(load_projects().add_config)


def require_project(name: str) -> None:
    """Raise the reason why an installed project could not be loaded, if there is one.

    Args:
        name: of the entry point, which is that of the package.

    Raises:
        ProjectError: naming the project and the reason.
    """
    reason = load_projects().errors.get(name)
    if reason is not None:
        raise ProjectError(f"the project {name} could not be loaded: {reason}")


def broken_projects() -> str:
    """Describe the projects that could not be loaded, as the end of an error message.

    Returns:
        "" if all were loaded.
    """
    errors = load_projects().errors
    if not errors:
        return ""
    reasons = ", ".join(f"{name} ({reason})" for name, reason in errors.items())
    return f"; projects that could not be loaded: {reasons}"


def project_folders() -> dict[str, Path]:
    """Folders of the packages of installed projects, by package; nothing is imported."""
    folders = {}
    for point in _entry_points():
        spec = find_spec(point.module.partition(".")[0])
        if spec is not None and spec.submodule_search_locations:
            folders[spec.name] = Path(spec.submodule_search_locations[0])
    return folders


def _entry_points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)
