"""Frozen parameters: name patterns, a table of modules, and refusal of frozen random weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from detectron2.config import CfgNode
from tabulate import tabulate
from torch import nn

from hipie.checkpoint import LoadReport
from hipie.checkpoint.base import external_weight_prefixes
from hipie.errors import InputError


def freeze_parameters(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match a pattern, in place.

    Args:
        model: any.
        patterns: shell patterns of full names, such as "backbone.*" or "*.level_embedding"; `*`
            matches dots, too. Modes of modules and running statistics of batch norms do not change.

    Raises:
        InputError: for a pattern that matches no parameter, with the nearest names.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        matches = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matches:
            modules = {name.rpartition(".")[0] for name in parameters} | parameters.keys()
            modules |= {name.split(".")[0] for name in parameters}
            similar = difflib.get_close_matches(pattern.rstrip(".*"), sorted(modules), 3, 0.5)
            hint = f"; similar names are {', '.join(similar)}" if similar else ""
            raise InputError(f"MODEL.FREEZE: {pattern!r} matches no parameter of the model{hint}")
        for name in matches:
            parameters[name].requires_grad_(False)


def parameters_as_built(model: nn.Module, report: LoadReport | None) -> set[str]:
    """Return the names of the parameters that no file of weights has set, so are mostly random.

    Args:
        model: its modules may have an attribute `has_pretrained_weights`, True if they loaded
            weights when they were built.
        report: of the checkpoint that was loaded; None = there was none.
    """
    names = {name for name, _ in model.named_parameters()}
    if report is not None:
        names &= {*report.missing, *report.mismatched}
    pretrained = [*external_weight_prefixes(model)]
    for name, module in model.named_modules():
        if getattr(module, "has_pretrained_weights", False):
            pretrained.append(f"{name}." if name else "")
    return {name for name in names if not name.startswith(tuple(pretrained))}


def check_frozen_parameters(cfg: CfgNode, model: nn.Module, report: LoadReport | None) -> None:
    """Refuse to freeze weights that are random, when `MODEL.WEIGHTS` has been loaded.

    This is about parameters frozen by `MODEL.BACKBONE.FREEZE_AT`, `MODEL.HIPIE.TEXT.FROZEN` and
    `MODEL.FREEZE`.

    Args:
        cfg: reads those keys.
        model: its weights are loaded.
        report: see `parameters_as_built`.

    Raises:
        InputError: naming the key and the first such parameter.
    """
    as_built = parameters_as_built(model, report)
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad and n in as_built]
    text_encoder = getattr(model, "text_encoder", None)
    is_random = getattr(text_encoder, "has_pretrained_weights", None) is False
    keys = {
        "MODEL.BACKBONE.FREEZE_AT": (cfg.MODEL.BACKBONE.FREEZE_AT > 0, "backbone.*"),
        "MODEL.HIPIE.TEXT.FROZEN": (
            cfg.MODEL.HIPIE.TEXT.FROZEN and is_random,
            "text_encoder.*",
        ),
        **{f'MODEL.FREEZE "{pattern}"': (True, pattern) for pattern in cfg.MODEL.FREEZE},
    }
    for key, (is_set, pattern) in keys.items():
        random = [name for name in frozen if is_set and fnmatchcase(name, pattern)]
        if random:
            raise InputError(
                f"{key} freezes {len(random)} parameters with random values, the first is "
                f"{random[0]}; name pre-trained weights (such as MODEL.WEIGHTS or "
                "MODEL.TIMM.WEIGHTS), or do not freeze them"
            )


def parameter_table(model: nn.Module, report: LoadReport | None) -> str:
    """Return a table of modules with their numbers of trainable and frozen parameters.

    Args:
        model: any. A shared parameter counts once, in the first module.
        report: see `parameters_as_built`; the last column counts those.
    """
    as_built = parameters_as_built(model, report)
    rows = []
    for module in ("", *_modules(model)):
        counts = [0, 0, 0]
        for name, parameter in model.named_parameters():
            if not module or name == module or name.startswith(f"{module}."):
                counts[0 if parameter.requires_grad else 1] += parameter.numel()
                counts[2] += parameter.numel() if name in as_built else 0
        indent = "  " * module.count(".") if module else ""
        rows.append([f"{indent}{module or 'all'}", *(f"{count:,}" for count in counts)])
    return tabulate(
        [*rows[1:], rows[0]],
        headers=["module", "trainable", "frozen", "not loaded"],
        colalign=("left", "right", "right", "right"),
        disable_numparse=True,
        preserve_whitespace=True,
    )


def _modules(model: nn.Module) -> Iterator[str]:
    """Yield the names of the parts of a model, each followed by its own parts if it has several."""
    for name, child in _parts(model):
        yield name
        inner = _parts(child) if isinstance(child, nn.Module) else []
        if len(inner) > 1:
            yield from (f"{name}.{part}" for part, _ in inner)


def _parts(module: nn.Module) -> list[tuple[str, nn.Module | nn.Parameter]]:
    """Children with parameters, and parameters of the module itself."""
    children = [(n, c) for n, c in module.named_children() if any(True for _ in c.parameters())]
    return [*children, *module.named_parameters(recurse=False)]
