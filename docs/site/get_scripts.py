"""Get the scripts that the theme would load from another host, from npm into build/docs/.

Mermaid draws the diagrams; iframe-worker searches where the site is read without a server. It
needs npm. The packages are those of the versions and checksums below; nothing of them is run here.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build/docs"


@dataclass(frozen=True)
class Script:
    """A script of an npm package.

    Attributes:
        package: its name.
        version: its version.
        integrity: SHA-512 of the package's archive, as npm states it.
        member: file in the archive.
        replaces: address from which the theme would load it.
    """

    package: str
    version: str
    integrity: str
    member: str
    replaces: str

    @property
    def file(self) -> Path:
        """Where it is stored; another version has another name."""
        return FOLDER / f"{self.package}-{self.version}.js"

    @property
    def place(self) -> str:
        """Where it is in the site."""
        return f"assets/{self.package}.js"


MERMAID = Script(
    "mermaid",
    "11.9.0",
    "sha512-YdPXn9slEwO0omQfQIsW6vS84weVQftIyyTGAZCwM//MGhPzL1+l6vO6bkf0wnP4tHigH1alZ5Ooy3HXI2gOag==",
    "package/dist/mermaid.min.js",
    "https://unpkg.com/mermaid@11/dist/mermaid.min.js",
)
IFRAME_WORKER = Script(
    "iframe-worker",
    "1.0.4",
    "sha512-roeaaI+Lg1LJNfgpCjoRe/+WzEjy9+Z08LoEvu85MCPbBjwm+qXz8Ag5U05lHa6V1CysZyGzE0SOkAtSUA5q7Q==",
    "package/shim/index.js",
    "https://unpkg.com/iframe-worker/shim",
)
SCRIPTS = (MERMAID, IFRAME_WORKER)


def get(script: Script) -> str:
    """Download a package, check it, and store its script.

    Returns:
        "", or the reason why it is not stored.
    """
    name = f"{script.package}@{script.version}"
    if shutil.which("npm") is None:
        return f"{name} is got by npm: install Node.js"
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(
            ["npm", "pack", "--silent", name], cwd=folder, check=False, stdout=subprocess.DEVNULL
        )
        archive = Path(folder) / f"{script.package}-{script.version}.tgz"
        if packed.returncode or not archive.is_file():
            return f"npm did not download {name}"
        if not is_expected(archive.read_bytes(), script):
            return f"{name} of npm is not the expected package: its SHA-512 is another one"
        with tarfile.open(archive) as package:
            content = package.extractfile(script.member).read()
    FOLDER.mkdir(parents=True, exist_ok=True)
    script.file.write_bytes(content)
    return ""


def is_expected(archive: bytes, script: Script) -> bool:
    """Whether an archive has the checksum of a script's package."""
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    return f"sha512-{digest}" == script.integrity


def main() -> int:
    """Get what is not there yet; the exit status is 1 if something is missing then."""
    reasons = [get(script) for script in SCRIPTS if not script.file.is_file()]
    for reason in filter(None, reasons):
        print(f"docs/site/get_scripts.py: {reason}", file=sys.stderr)
    return int(any(reasons))


if __name__ == "__main__":
    sys.exit(main())
