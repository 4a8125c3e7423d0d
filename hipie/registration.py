"""Registration of everything that a configuration can name.

Architectures and backbones register themselves in Detectron2's registries, data sets in its
catalogs, evaluators in `EVALUATOR_REGISTRY`; so do the installed projects. Taking
`add_hipie_config` or `model_zoo` from `hipie` calls `register_all`, and so does everything that
builds models by name.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import RLock
from typing import Any

from hipie.errors import InputError

_lock = RLock()
_started = False


def register_all() -> None:
    """Register architectures, backbones, data sets, evaluators and projects, once a process.

    Data sets that are registered already, such as Detectron2's own, stay as they are. A project
    that cannot be imported is reported by one warning; see `hipie.projects`.
    """
    global _started
    with _lock:
        # A project may take `add_hipie_config` from `hipie` while it is imported here.
        if _started:
            return
        _started = True
        with _quiet_imports():
            _import_and_register()


def _import_and_register() -> None:
    import hipie.downloads.path_handlers
    import hipie.evaluation
    import hipie.modeling.backbone
    import hipie.modeling.meta_arch.hipie  # noqa: F401
    from hipie.data.datasets import register_default_datasets
    from hipie.projects import load_projects

    register_default_datasets()
    load_projects()


@contextmanager
def _quiet_imports() -> Iterator[None]:
    """Hide the warnings that Detectron2 causes at every import with a recent PyTorch."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", r"`?torch\.jit", category=category)
        yield


def import_modules(names: Sequence[str], cfg: Any) -> None:
    """Import user code that registers architectures, data sets, evaluators and the like.

    A module that defines `add_config(cfg)` adds its own keys by it.

    Args:
        names: dotted names, also of modules in the working directory, or Python files.
        cfg: the configuration, before a file is merged into it; changed in place.

    Raises:
        ValueError: naming a module that does not exist.
    """
    for name in names:
        module = _import_user_module(name)
        add_config: Callable[[Any], None] | None = vars(module).get("add_config")
        if add_config is not None:
            add_config(cfg)


def _import_user_module(name: str) -> Any:
    folder, dotted = Path.cwd(), name
    if name.endswith(".py"):
        file = Path(name).resolve()
        if not file.is_file():
            raise InputError(f"there is no file {name} to import")
        folder, dotted = file.parent, file.stem
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        return import_module(dotted)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{dotted}.".startswith(f"{error.name}."):
            raise
        raise InputError(f"there is no module {name} to import") from error
    except InputError:
        raise
    except Exception as error:
        lines = traceback.extract_tb(error.__traceback__)
        own = [line for line in lines if line.filename.startswith(str(folder))] or lines[-1:]
        number = error.lineno if isinstance(error, SyntaxError) else own[-1].lineno
        raise InputError(
            f"{name} cannot be imported: its line {number} raises {type(error).__name__}"
        ) from error
