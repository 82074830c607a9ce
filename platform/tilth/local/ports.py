"""Free TCP ports on loopback, several at once, so that two stacks run side by side."""

import socket
from contextlib import ExitStack

HOST = "127.0.0.1"
BACKLOG = 2048


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are held at the same time while they are found."""
    with ExitStack() as held:
        return [_bound(held, 0) for _ in range(count)]


def listener(port: int) -> socket.socket:
    """A socket that listens on that port if it is free, else on another; a child may inherit it."""
    try:
        made = socket.create_server((HOST, port), backlog=BACKLOG)
    except OSError:
        made = socket.create_server((HOST, 0), backlog=BACKLOG)
    made.set_inheritable(True)
    return made


def listening(port: int) -> bool:
    """Whether somebody answers there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0


def _bound(held: ExitStack, port: int) -> int:
    taken = held.enter_context(socket.socket())
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind((HOST, port))
    return int(taken.getsockname()[1])
