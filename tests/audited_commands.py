"""Run commands under an audit hook, and print the events that they must not cause.

python tests/audited_commands.py '{"commands": [["doctor"]], "allowed": ["/tmp/folder"]}'

The last line of the output is a list in JSON: command and event of every opening of a socket, start
of a process, and change of a file outside of the allowed folders.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")
SOCKETS = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "urllib.Request",
    "ftplib.connect",
    "smtplib.connect",
)
# Processes that libraries start when they are imported: always these, with nothing from a file.
QUESTIONS = (
    ["/sbin/ldconfig", "-p"],  # ctypes.util.find_library, for NVIDIA's packages
    ["lscpu"],  # numpy.testing, which SciPy imports
    ["fc-list", "--help"],  # Matplotlib, when it first lists the fonts
    ["fc-list", r"--format=%{file}\n"],
    ["/bin/sh", "-c", "'c++' --version"],  # Detectron2's description of the machine in the log
)
# Events about files: the positions of the paths that change.
CHANGES = {
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
    "shutil.copyfile": (1,),
    "shutil.unpack_archive": (0, 1),
    "sqlite3.connect": (0,),
}
# Those of them that have the descriptor of each path's folder after the paths.
BESIDE = ("os.remove", "os.rename", "os.rmdir")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

request = json.loads(sys.argv[1])
allowed = [os.path.realpath(folder) for folder in request["allowed"]]
events: list[tuple[str, str]] = []
current = "import"
busy = False


def is_allowed(path: Any, folder: Any = -1) -> bool:
    """Whether a path is a file descriptor, the null device or below an allowed folder.

    Args:
        path: maybe relative to `folder`.
        folder: a file descriptor, or -1.
    """
    if isinstance(path, int):
        return True
    path = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    real = os.path.realpath(path)
    return real == os.devnull or any(
        os.path.commonpath([real, folder]) == folder for folder in allowed
    )


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Note an event that a command must not cause."""
    global busy
    if busy:
        return
    busy = True
    try:
        if event == "subprocess.Popen" and list(arguments[1]) in QUESTIONS:
            return
        if event in PROCESSES or event in SOCKETS:
            events.append((current, f"{event} {arguments!r}"[:300]))
        elif event == "open":
            path, mode, flags = arguments
            writes = bool(flags & WRITING) if isinstance(flags, int) else False
            writes |= isinstance(mode, str) and any(letter in mode for letter in "wax+")
            if writes and path is not None and not is_allowed(path):
                events.append((current, f"open {path!r} {mode!r}"))
        elif event in CHANGES:
            positions = CHANGES[event]
            for position in positions:
                follows = position + len(positions)
                folder = arguments[follows] if event in BESIDE and len(arguments) > follows else -1
                if not is_allowed(arguments[position], folder):
                    events.append((current, f"{event} {arguments[position]!r}"))
    finally:
        busy = False


sys.addaudithook(hook)


def main() -> None:
    """Run the commands in turn."""
    global current
    from hipie.cli.main import run_command

    for command, *arguments in request["commands"]:
        current = command
        try:
            status = run_command(command, arguments)
        except SystemExit as end:
            status = end.code
        if status not in (0, None):
            events.append((command, f"it ended with {status}"))
    print(json.dumps(events))


if __name__ == "__main__":
    main()
