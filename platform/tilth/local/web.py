"""``python -m tilth.local.web FD``: the web process, on a listening socket that the supervisor holds."""

import socket
import sys

import uvicorn


def main() -> None:
    """Serves until SIGTERM."""
    config = uvicorn.Config(
        "tilth.asgi:application",
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run([socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
