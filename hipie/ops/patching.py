"""Let the models of other projects run on the operator: :func:`patch` and :func:`unpatch`.

Functions and layers are found in the loaded modules by the names of their parameters
(`client_forms`), and in modules that are imported later by an import hook. Compiled extension
modules that are missing are stood in for (`stand_in_modules`).
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import FunctionType, ModuleType, TracebackType
from typing import Any

from torch import nn

from . import stand_in_modules
from .client_forms import Form, Switch, difference, form_of, parameters_of, resembles
from .explanation import build_command
from .library import PACKAGE, REPORT, cpu_problem, cuda_problem

logger = logging.getLogger(__name__)

# Text that the source of every module with a known form contains.
MARK = b"sampling_locations"
_OWN_PACKAGES = ("hipie", "hipie_ops")


class OperatorNotBuiltError(RuntimeError):
    """The operator has no compiled kernel, so that nothing can be gained by patching."""


@dataclass
class _Replacement:
    """A function that is replaced wherever a module has it, or the forward method of a class."""

    original: FunctionType
    served: Callable[..., Any]
    form: Form
    owner: type | None
    switch: Switch = field(default_factory=Switch)

    @property
    def name(self) -> str:
        return _name(self.original)


@dataclass
class _Extension:
    """A compiled module whose functions are replaced, or a stand-in for one."""

    module: ModuleType
    originals: dict[str, Any]  # empty for a stand-in


def _name(function: FunctionType) -> str:
    return f"{function.__module__}.{function.__qualname__}"


class Patch:
    """Handle of one call of :func:`patch`; ``str()`` lists what is served and what is not.

    As a context manager it undoes the call at the end of the block.

    Attributes:
        packages: names of the packages that it covers; empty means all.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = tuple(packages)

    @property
    def active(self) -> bool:
        """Whether the call has not been undone."""
        return self in _state.patches

    @property
    def served(self) -> dict[str, str]:
        """What runs on the operator now, by name: its form. Later imports are added."""
        with _state.lock:
            table = {
                entry.name: entry.form.title
                for entry in _state.replacements.values()
                if self.active and self.covers(entry.original.__module__)
            }
            table |= {
                name: "extension module" if entry.originals else "stand-in for an extension module"
                for name, entry in _state.extensions.items()
                if self.active and self.covers(name)
            }
        return dict(sorted(table.items()))

    @property
    def left_alone(self) -> dict[str, str]:
        """What looks like deformable attention and is not served, by name: the reason."""
        with _state.lock:
            reasons = _state.left_alone.items()
            return {name: reason for name, reason in sorted(reasons) if self.covers(name)}

    def covers(self, module: str) -> bool:
        """Whether the handle covers a module."""
        if module.partition(".")[0] in _OWN_PACKAGES:
            return False
        return not self.packages or any(
            module == package or module.startswith(package + ".") for package in self.packages
        )

    def undo(self) -> None:
        """Undo this call; what another call covers too stays patched."""
        unpatch(self)

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()

    def __str__(self) -> str:
        scope = ", ".join(self.packages) or "every package"
        if not self.active:
            return f"{PACKAGE}.patch of {scope}: undone"
        lines = [f"{PACKAGE}.patch of {scope}; modules imported later are added"]
        lines += [f"  serves {name} ({title})" for name, title in self.served.items()]
        lines += [f"  leaves {name} alone: {reason}" for name, reason in self.left_alone.items()]
        return "\n".join(lines)


class _State:
    """What is patched in this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.patches: list[Patch] = []
        self.replacements: dict[int, _Replacement] = {}  # by the identity of the original
        self.extensions: dict[str, _Extension] = {}
        self.left_alone: dict[str, str] = {}
        self.hook = _ImportHook()

    def covers(self, module: str) -> bool:
        return any(entry.covers(module) for entry in self.patches)


def patch(*packages: str) -> Patch:
    """Let other projects' multi-scale deformable attention run on this operator.

    Serves, in all loaded modules and in those that are imported later: functions and layers with
    the parameters of transformers, mmcv, GroundingDINO, detrex and Deformable DETR, which are tried
    on a small input first; and the extension modules ``MultiScaleDeformableAttention``,
    ``groundingdino._C``, ``detrex._C`` and ``mmcv._ext``, the last three where they are imported.
    Tensors on a device without a kernel, and modes that the operator does not have, take the
    original function. The state belongs to the process: all threads see it.

    Args:
        packages: names of packages, such as "transformers", or of modules; none means all.

    Returns:
        A handle, which is a context manager too; ``print`` shows what is served.

    Raises:
        OperatorNotBuiltError: no kernel is built; it names the command that builds it.
    """
    if cpu_problem is not None and cuda_problem is not None:
        raise OperatorNotBuiltError(
            f"{PACKAGE}.patch needs the compiled operator: {cpu_problem}; build it with "
            f"`{build_command()}` (`{REPORT}` reports more)"
        )
    handle = Patch(packages)
    with _state.lock:
        _state.patches.append(handle)
        if _state.hook not in sys.meta_path:
            sys.meta_path.insert(0, _state.hook)
    for name in stand_in_modules.NAMES:
        if name in sys.modules:
            _adopt_extension(sys.modules[name])
    _adopt(_loaded_modules())
    with _state.lock:
        _exchange(_served_functions(), _all_tables())
    return handle


def unpatch(handle: Patch | None = None) -> None:
    """Undo a call of :func:`patch`, or all of them; undoing twice does nothing.

    Every module gets back the very functions that it had.

    Args:
        handle: what :func:`patch` returned; None undoes all calls.
    """
    with _state.lock:
        if handle is None:
            _state.patches.clear()
        elif handle in _state.patches:
            _state.patches.remove(handle)
        if not _state.patches and _state.hook in sys.meta_path:
            sys.meta_path.remove(_state.hook)
        entries = _state.replacements.items()
        obsolete = {
            key: entry for key, entry in entries if not _state.covers(entry.original.__module__)
        }
        _restore(obsolete)
        for name in [name for name in _state.extensions if not _state.covers(name)]:
            _restore_extension(name, _state.extensions.pop(name))
        for name in [name for name in _state.left_alone if not _state.covers(name)]:
            del _state.left_alone[name]


def active_patches() -> list[Patch]:
    """Return the handles of all calls of :func:`patch` that have not been undone."""
    with _state.lock:
        return list(_state.patches)


def _loaded_modules() -> list[ModuleType]:
    return [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]


def _adopt(modules: Iterable[ModuleType]) -> None:
    """Replace the functions and methods of known forms in these modules."""
    for module in modules:
        for value in list(vars(module).values()):
            if type(value) is FunctionType:
                candidate: tuple[FunctionType, type | None] | None = (value, None)
            else:
                candidate = _forward_of(value)
            if candidate is not None and _state.covers(str(candidate[0].__module__)):
                _consider(*candidate)
    with _state.lock:
        _exchange(_served_functions(), (vars(module) for module in modules))


def _served_functions() -> dict[int, Callable[..., Any]]:
    entries = _state.replacements.items()
    return {key: entry.served for key, entry in entries if entry.owner is None}


def _exchange(functions: dict[int, Any], tables: Iterable[dict[str, Any]]) -> None:
    """Put functions in place of others, given by their identity, in tables of attributes."""
    if not functions:
        return
    for table in tables:
        for name, value in list(table.items()):
            other = functions.get(id(value))
            if other is not None:
                table[name] = other


def _all_tables() -> Iterator[dict[str, Any]]:
    """Yield the attributes of all loaded modules and of all layers.

    D-FINE's layers hold the function that was in their module when they were made.
    """
    yield from (vars(module) for module in _loaded_modules())
    for item in gc.get_objects():
        if issubclass(type(item), nn.Module):
            yield vars(item)


def _forward_of(value: object) -> tuple[FunctionType, type] | None:
    """Return the forward method that a layer class defines itself, with the class, or None."""
    if not (issubclass(type(value), type) and issubclass(value, nn.Module)):  # type: ignore[arg-type]
        return None
    forward = vars(value).get("forward")
    return (forward, value) if type(forward) is FunctionType else None  # type: ignore[return-value]


def _consider(original: FunctionType, owner: type | None) -> None:
    """Replace a function or method if its form is known and a trial call agrees."""
    if hasattr(original, "served_by_hipie") or id(original) in _state.replacements:
        return
    parameters = parameters_of(original)
    form = form_of(parameters)
    if form is None or (owner is None) == (parameters[0] == "self"):
        if resembles(parameters):
            _leave_alone(original, f"its parameters {', '.join(parameters)} are not known")
        return
    if _name(original) in _state.left_alone:
        return
    reason = difference(form, original)
    if reason is not None:
        _leave_alone(original, reason)
        return
    switch = Switch()
    served = form.serve(original, switch)
    served.served_by_hipie = True  # type: ignore[attr-defined]
    entry = _Replacement(original, served, form, owner, switch)
    with _state.lock:
        if not _state.covers(str(original.__module__)) or id(original) in _state.replacements:
            return
        _state.replacements[id(original)] = entry
        if owner is not None:
            owner.forward = served  # type: ignore[attr-defined]


def _leave_alone(function: FunctionType, reason: str) -> None:
    with _state.lock:
        if _name(function) in _state.left_alone:
            return
        _state.left_alone[_name(function)] = reason
    logger.warning("%s.patch leaves %s alone: %s", PACKAGE, _name(function), reason)


def _restore(entries: dict[int, _Replacement]) -> None:
    """Put back the originals in every module that has a replacement, under the lock."""
    originals: dict[int, Any] = {}
    for key, entry in entries.items():
        entry.switch.on = False
        if entry.owner is None:
            originals[id(entry.served)] = entry.original
        elif vars(entry.owner).get("forward") is entry.served:
            entry.owner.forward = entry.original  # type: ignore[attr-defined]
        del _state.replacements[key]
    _exchange(originals, _all_tables())


def _adopt_extension(module: ModuleType) -> None:
    """Take over the functions of an extension module, or note that it is a stand-in."""
    name = module.__name__
    with _state.lock:
        if name in _state.extensions or not _state.covers(name):
            return
        originals: dict[str, Any] = {}
        if not isinstance(module, stand_in_modules.StandIn):
            for function, ours in stand_in_modules.functions(name).items():
                theirs = getattr(module, function, None)
                origin = str(getattr(theirs, "__module__", ""))
                if theirs is None or origin.partition(".")[0] in _OWN_PACKAGES:
                    return
                originals[function] = theirs
                setattr(module, function, stand_in_modules.dispatch(ours, theirs))
        _state.extensions[name] = _Extension(module, originals)


def _restore_extension(name: str, entry: _Extension) -> None:
    for function, original in entry.originals.items():
        setattr(entry.module, function, original)
    if not entry.originals and sys.modules.get(name) is entry.module:
        del sys.modules[name]
        parent, _, child = name.rpartition(".")
        if parent in sys.modules and vars(sys.modules[parent]).get(child) is entry.module:
            delattr(sys.modules[parent], child)


class _ImportHook(MetaPathFinder):
    """Finder that patches modules after their import and finds stand-ins."""

    def __init__(self) -> None:
        self.thread = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module with the other finders, and see to it that it is patched."""
        if not _state.covers(fullname):
            return None
        spec = None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is not self and find is not None and spec is None:
                spec = find(fullname, path, target)
        if fullname in stand_in_modules.NAMES:
            if spec is None:
                spec = spec_from_loader(fullname, stand_in_modules.StandInLoader())  # type: ignore[arg-type]
            after: Callable[[ModuleType], None] = _adopt_extension
        elif spec is not None and _has_mark(spec):
            after = _adopt_one
        else:
            return spec
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, after)
        return spec


def _adopt_one(module: ModuleType) -> None:
    _adopt([module])


def _has_mark(spec: ModuleSpec) -> bool:
    """Whether the source of a module has the text that every known form has."""
    if spec.origin is None or not spec.origin.endswith(".py"):
        return False
    try:
        return MARK in Path(spec.origin).read_bytes()
    except OSError:
        return False


class _Loader:
    """Loader that calls a function after the execution of a module, and steps back."""

    def __init__(self, loader: Any, after: Callable[[ModuleType], None]) -> None:
        self._loader, self._after = loader, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._after(module)


_state = _State()
