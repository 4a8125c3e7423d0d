"""Compare the versions of constraints.txt with known vulnerabilities, by pip-audit.

python install/audit_requirements.py

PyPI's service is asked first, then that of OSV. Where neither answers (no network, or a package
index without such a service), one line says so and the exit status is 0; with a vulnerability it is
1.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
SERVICES = ("pypi", "osv")
# For a request, and for all of them.
TIMEOUT_SECONDS, LIMIT_SECONDS = 5, 120


def ask(service: str) -> list[dict[str, Any]]:
    """Return what a service knows about every package; an empty list if it does not answer."""
    command = [sys.executable, "-m", "pip_audit", f"--requirement={CONSTRAINTS}", "--no-deps"]
    command += ["--disable-pip", "--progress-spinner=off", "--format=json"]
    command += [f"--timeout={TIMEOUT_SECONDS}", f"--vulnerability-service={service}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
        return list(json.loads(done.stdout)["dependencies"])
    except (subprocess.TimeoutExpired, ValueError, LookupError):
        return []


def vulnerabilities(packages: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Return how many packages a service knows, and one line for each vulnerability of them."""
    known = [package for package in packages if "skip_reason" not in package]
    lines = [
        f"{package['name']} {package['version']}: {entry['id']}, "
        f"fixed in {', '.join(entry['fix_versions']) or 'no version'}"
        for package in known
        for entry in package["vulns"]
    ]
    return len(known), lines


def main() -> int:
    """Run the program and return its exit status."""
    for service in SERVICES:
        count, lines = vulnerabilities(ask(service))
        if count:
            print(f"{count} packages of constraints.txt were compared with {service}'s service")
            print("\n".join(lines) or "no known vulnerability")
            return 1 if lines else 0
    print(
        "skipped: constraints.txt was not compared with known vulnerabilities, as neither PyPI's "
        "nor OSV's service answers"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
