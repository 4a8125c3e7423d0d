"""Build `hipie-ops`: the operator of `hipie.ops` as a distribution that depends on torch only.

The folder `hipie_ops/_ops` is a link to `hipie/ops` of the repository; a source distribution has
the files themselves. `install/build_wheels.py` of the repository builds both kinds of distribution.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from email.parser import HeaderParser
from pathlib import Path

import torch
from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

ROOT = Path(__file__).parent.absolute()
# Every path below is relative to this folder, wherever the build was started from.
os.chdir(ROOT)
sys.path.insert(0, str(ROOT))

from setup_extension import extensions  # noqa: E402  (the module is beside this file)

PACKAGE = "hipie_ops._ops"


class OperatorWheel(bdist_wheel):
    """Wheel of a library that uses no symbol of Python's, for every Python of one platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of Python, its ABI, and the platform."""
        return "py3", "none", super().get_tag()[2]


def version() -> str:
    """Return the version of `hipie`, with HIPIE_OPS_LOCAL_VERSION as its local part if set."""
    information, package = ROOT / "PKG-INFO", ROOT / "../../hipie/__init__.py"
    if information.exists():  # a source distribution
        public = HeaderParser().parsestr(information.read_text(encoding="utf-8"))["Version"]
    else:
        body = ast.parse(package.read_text(encoding="utf-8")).body
        public = next(
            ast.literal_eval(node.value)
            for node in body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
        )
    local = os.environ.get("HIPIE_OPS_LOCAL_VERSION")
    return f"{public}+{local}" if local else public


def requirement() -> str:
    """Return the requirement of torch: what is compiled runs on one minor release of it only."""
    if {"sdist", "egg_info"} & set(sys.argv):
        return "torch>=2.6"
    major, minor = map(int, re.match(r"(\d+)\.(\d+)", torch.__version__).groups())
    return f"torch>={major}.{minor},<{major}.{minor + 1}"


MODULES, COMMANDS = extensions(PACKAGE, Path("hipie_ops/_ops/csrc"))

setup(
    name="hipie-ops",
    version=version(),
    description="Multi-scale deformable attention for PyTorch, with kernels for CPU and CUDA.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=["hipie_ops", PACKAGE],
    package_data={"hipie_ops": ["py.typed"]},
    ext_modules=MODULES,
    cmdclass={**COMMANDS, "bdist_wheel": OperatorWheel},
    install_requires=[requirement()],
    zip_safe=False,
)
