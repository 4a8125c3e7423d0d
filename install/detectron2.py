"""Put Detectron2 into this Python's environment, where it is not there yet.

The package index has no `detectron2`. By default this takes `sal-detectron2`, upstream's code of
April 2024 under another version string; its wheel is tagged for Python 3.10, but its Python files
run on newer ones, and what only its compiled part can do (rotated boxes, deformable convolution)
is not needed here. With `--upstream` it installs Detectron2's main branch, which needs access to
the repository and a compiler.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

RELEASE = "sal-detectron2==0.7.2"
UPSTREAM = "git+https://github.com/facebookresearch/detectron2"


def main() -> None:
    """Keep what is importable, install otherwise, and check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--upstream", action="store_true", help="build the main branch instead")
    upstream = parser.parse_args().upstream
    if importlib.util.find_spec("detectron2") is not None:
        print("Detectron2 is there already, and stays as it is.")
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    if upstream:
        command = [*pip, "--no-build-isolation", UPSTREAM]
    else:
        command = [*pip, *_foreign_wheel(), RELEASE]
    if subprocess.run(command).returncode:
        sys.exit(
            "Detectron2 could not be installed: the lines above say why. "
            "Install it yourself so that `import detectron2` works, and run make again."
        )
    if not upstream:
        # The wheel carries its command-line programs as a top-level package called `tools`.
        shutil.rmtree(Path(sysconfig.get_path("purelib"), "tools"), ignore_errors=True)
    check = [sys.executable, "-W", "ignore", "-c", "import detectron2.modeling"]
    if subprocess.run(check).returncode:
        sys.exit("Detectron2 is installed, but cannot be imported: the lines above say why.")


def _foreign_wheel() -> list[str]:
    """Arguments that take a wheel made for another Python, files only."""
    return [
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=3.10",
        "--implementation=cp",
        "--abi=none",
        "--platform=any",
        "--target",
        sysconfig.get_path("purelib"),
    ]


if __name__ == "__main__":
    main()
