"""Sockets that our servers listen on, and who can reach them."""

from __future__ import annotations

import errno
import socket
from ipaddress import ip_address

from prefloop.errors import RequestError


def address(door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def listening(section: str, host: str, port: int) -> socket.socket:
    """A socket that takes connections; RequestError if the port, which `section`.port names, is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
        door.listen(128)
    except OSError as error:
        door.close()
        if error.errno == errno.EADDRINUSE:
            raise RequestError(f"port {port} is in use on {host}; choose another with {section}.port={port + 1}, or 0 "
                               "for any that is free") from None
        raise RequestError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return door


def loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
