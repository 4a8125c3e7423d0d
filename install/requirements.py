"""Print what setup.py requires, with some of its extras, one requirement an argument.

python install/requirements.py all
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

# Extras that "all" leaves out: clients of services, which the tests replace by stand-ins,
SERVICES = ("wandb", "mlflow")
# what is built from sources for minutes,
SOURCE_BUILDS = ("crf",)
# what a target of its own installs, ...
OWN_TARGETS = ("docs", "notebooks", "ray", "ray_test")
# ... and what few use: where torchao is installed, transformers imports it in every process, and it
# warns.
RUNTIMES = ("openvino", "int8")


def requirements(extras: list[str]) -> list[str]:
    """Return setup.py's REQUIRED and the EXTRAS of these names; "all" leaves some out."""
    tree = ast.parse((Path(__file__).parents[1] / "setup.py").read_text(encoding="utf-8"))
    tables = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id in ("REQUIRED", "EXTRAS")
    }
    known = tables["EXTRAS"]
    left_out = SERVICES + SOURCE_BUILDS + OWN_TARGETS + RUNTIMES
    chosen = [name for name in known if name not in left_out] if "all" in extras else extras
    return sorted({*tables["REQUIRED"], *(name for extra in chosen for name in known[extra])})


if __name__ == "__main__":
    print("\n".join(f"'{name}'" for name in requirements(sys.argv[1:])))
