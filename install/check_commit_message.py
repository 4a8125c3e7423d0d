"""Check that a commit message follows Conventional Commits (a commit-msg hook).

python install/check_commit_message.py FILE
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TYPES = (
    *("build", "ci", "docs", "feat", "fix", "perf", "refactor", "revert", "style", "test"),
    "chore",
)
HEADER = re.compile(rf"(?:{'|'.join(TYPES)})(?:\([a-z0-9_, -]+\))?!?: \S.*")
GENERATED = ("Merge ", "Revert ", "fixup! ", "squash! ")
MAX_LENGTH = 100


def problem(message: str) -> str | None:
    """Return what is wrong with a commit message, or None.

    Args:
        message: the whole message; lines that begin with `#` are git's comments.
    """
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    header = lines[0] if lines else ""
    if header.startswith(GENERATED):
        return None
    if not HEADER.fullmatch(header):
        return (
            f"{header!r} is no Conventional Commit: write `type(scope): what changes`, with one of "
            f"the types {', '.join(TYPES)}"
        )
    if len(header) > MAX_LENGTH:
        return f"the first line has {len(header)} characters; at most {MAX_LENGTH} are allowed"
    if len(lines) > 1 and lines[1].strip():
        return "the second line of the message has to be empty"
    return None


def main() -> None:
    """Exit with status 1 and the reason if the message in the named file does not conform."""
    if reason := problem(Path(sys.argv[1]).read_text(encoding="utf-8")):
        sys.exit(f"check_commit_message.py: {reason}")


if __name__ == "__main__":
    main()
