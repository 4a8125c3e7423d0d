"""Compilation of a model's layers with `torch.compile`, for inference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

# Versions of one function: for layers of one class with other widths, and for other sizes.
RECOMPILE_LIMIT = 64

# What `torch.compile` takes: a name, or a function of a graph and its example inputs.
Backend = str | Callable[..., Any]


class CompiledFunction:
    """A method that is compiled when it is first called, without graph breaks.

    It is compiled for the sizes of its arguments; when another size comes, once more for any
    sizes. With gradients it runs as it is. Pickling drops what is compiled.

    Args:
        function: the method.
        backend: of `torch.compile`.
    """

    def __init__(self, function: Callable[..., Any], backend: Backend) -> None:
        self.function = function
        self.backend = backend
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the compiled function."""
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            return self.function(*args, **kwargs)
        if self._compiled is None:
            self._compiled = torch.compile(self.function, fullgraph=True, backend=self.backend)
        return self._compiled(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_compiled": None}


def compile_modules(modules: Iterable[nn.Module], backend: Backend = "inductor") -> None:
    """Compile modules in place, at their first call; parameters and their names stay the same.

    Of a module with an attribute `compiled_methods` these methods are compiled, else `forward`.
    `torch._dynamo.config.recompile_limit` of the process is raised to `RECOMPILE_LIMIT`.

    Args:
        modules: which nothing but their call uses.
        backend: of `torch.compile`.
    """
    import torch._dynamo

    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)
    for module in modules:
        for name in getattr(module, "compiled_methods", ("forward",)):
            method = getattr(module, name)
            if not isinstance(method, CompiledFunction):
                setattr(module, name, CompiledFunction(method, backend))
