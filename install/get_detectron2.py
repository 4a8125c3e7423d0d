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
import tempfile
from pathlib import Path

RELEASE = (
    "sal-detectron2==0.7.2 "
    "--hash=sha256:491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
)
UPSTREAM = "git+https://github.com/facebookresearch/detectron2"
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def main() -> None:
    """Keep what is importable, install otherwise, and check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--upstream", action="store_true", help="build the main branch instead")
    upstream = parser.parse_args().upstream
    if importlib.util.find_spec("detectron2") is not None:
        print("Detectron2 is there already, and stays as it is.")
        return
    if upstream:
        run([*PIP, "--no-build-isolation", UPSTREAM], "could not be installed")
    else:
        install_release(Path(sysconfig.get_path("purelib")))
    run([sys.executable, "-W", "ignore", "-c", "import detectron2.modeling"], "cannot be imported")


def install_release(packages: Path) -> None:
    """Unpack the wheel beside `packages`, and move in what belongs to Detectron2.

    The wheel also carries Detectron2's programs as a top-level package called `tools`, which stays
    out.
    """
    with tempfile.TemporaryDirectory(dir=packages, prefix="detectron2-") as folder:
        wanted = Path(folder, "wanted.txt")
        wanted.write_text(RELEASE, encoding="utf-8")
        staged = Path(folder, "staged")
        foreign = ["--only-binary=:all:", "--python-version=3.10", "--implementation=cp"]
        foreign += ["--abi=none", "--platform=any", "--no-deps", "--require-hashes"]
        run([*PIP, *foreign, f"--target={staged}", f"--requirement={wanted}"], "is not installed")
        (notes,) = staged.glob("*.dist-info")
        record = notes / "RECORD"
        kept = [line for line in record.read_text().splitlines() if not line.startswith("tools/")]
        record.write_text("\n".join(kept) + "\n")
        for part in (notes, staged / "detectron2"):
            shutil.rmtree(packages / part.name, ignore_errors=True)
            part.rename(packages / part.name)


def run(command: list[str], failure: str) -> None:
    """Run a command; if it fails, end with what to do."""
    if subprocess.run(command).returncode:
        sys.exit(
            f"Step 4, Detectron2, {failure}: the lines above say why. Install it yourself, so that "
            "`import detectron2` works in this environment, and run make again."
        )


if __name__ == "__main__":
    main()
