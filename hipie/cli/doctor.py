"""`hipie doctor`: report installed packages, usable kernels, and commands for what is missing.

The exit status is 1 where a kernel that this machine could use is missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import shutil
from collections.abc import Sequence

import torch

from hipie.ops import explain
from hipie.ops.explanation import build_command
from hipie.ops.installed_clients import installed_clients
from hipie.ops.patching import active_patches

DETECTRON2 = "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"


def report() -> tuple[list[str], bool]:
    """Report installed packages, usable kernels and compilers.

    Returns:
        The lines to print, and whether everything is installed and built.
    """
    lines, complete = [], True
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for device in devices:
        explanation = explain(torch.empty((1, 1, 1, 1), device=device))
        lines += [f"deformable attention on {device}:", *_indent(str(explanation)), ""]
        complete = complete and explanation.mend is None
    lines.append("what hipie.ops.patch() would serve of the installed packages:")
    lines += [f"  {client}" for client in installed_clients()] or ["  nothing"]
    for handle in active_patches():
        lines += _indent(str(handle))
    lines.append("packages:")
    for name in ("hipie", "torchvision", "transformers", "timm", "numpy"):
        lines.append(f"  {name} {_version(name)}")
    if importlib.util.find_spec("detectron2") is None:
        complete = False
        lines.append(f"  detectron2 is not installed; install it with: {DETECTRON2}")
    else:
        lines.append(f"  detectron2 {_version('detectron2', 'sal-detectron2')}")
    compilers = [name for name in ("c++", "nvcc") if shutil.which(name)]
    lines.append(f"compilers: {', '.join(compilers) or 'none'}")
    lines.append(f"to build the operator again: {build_command(devices[-1])}")
    return lines, complete


def _indent(text: str) -> list[str]:
    return ["  " + line for line in text.splitlines()]


def _version(*names: str) -> str:
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "is not installed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report.

    Returns:
        0 if everything is installed and built, else 1.
    """
    description = "Report installed packages, usable kernels and compilers."
    argparse.ArgumentParser(prog="hipie doctor", description=description).parse_args(arguments)
    lines, complete = report()
    print("\n".join(lines))
    return 0 if complete else 1


if __name__ == "__main__":
    raise SystemExit(main())
