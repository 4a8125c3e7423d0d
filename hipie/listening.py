"""Listening sockets of the programs that answer to a browser or to other programs."""

from __future__ import annotations

import socket

from hipie.errors import MachineError, UsageError, cause_of

# Connections that wait to be accepted.
BACKLOG = 128


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: a name or an address, IPv4 or IPv6.
        port: 0 for one that is free.

    Raises:
        UsageError: for a port that does not exist, or a host that is unknown.
        MachineError: if the port is in use or may not be opened.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port}: ports are from 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"--host {host}: there is no such host") from error
    except OSError as error:
        raise MachineError(
            f"port {port} of {host} cannot be opened: {cause_of(error)}; choose another by --port"
        ) from error


def address_of(listener: socket.socket, host: str) -> str:
    """Address of a listening socket for a browser, such as http://127.0.0.1:8000."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
