"""``python -m hipie doctor``: what is installed, what runs, and what to type to mend the rest.

Exits with 1 where a kernel that this machine could use is missing.
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

DETECTRON2 = "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"


def report() -> tuple[list[str], bool]:
    """Lines to print, and whether all is well."""
    lines, well = [], True
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    for device in devices:
        found = explain(torch.empty((1, 1, 1, 1), device=device))
        lines += [f"deformable attention on {device}:", *_indent(str(found)), ""]
        well = well and found.mend is None
    lines.append("packages:")
    for name in ("hipie", "torchvision", "transformers", "timm", "numpy"):
        lines.append(f"  {name} {_version(name)}")
    if importlib.util.find_spec("detectron2") is None:
        well = False
        lines.append(f"  detectron2 is not installed; mend: {DETECTRON2}")
    else:
        lines.append(f"  detectron2 {_version('detectron2', 'sal-detectron2')}")
    compilers = [name for name in ("c++", "nvcc") if shutil.which(name)]
    lines.append(f"compilers: {', '.join(compilers) or 'none found'}")
    lines.append(f"to build the operator again: {build_command(devices[-1])}")
    return lines, well


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
    """Print the report; 0 where all is well, else 1."""
    argparse.ArgumentParser(prog="hipie doctor", description=report.__doc__).parse_args(arguments)
    lines, well = report()
    print("\n".join(lines))
    return 0 if well else 1


if __name__ == "__main__":
    raise SystemExit(main())
