"""The command of Ray's head: every port allotted, everything on loopback."""

import socket
import sys
from pathlib import Path

from tilth.local.ports import HOST, free_ports

LOGICAL_CPUS = 6
"""Ray's CPUs are tickets, not cores: each actor takes a tenth. So many idle workers are started beforehand."""
OBJECT_STORE_BYTES = 200 << 20
PORTS = (
    "port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "node-manager-port",
    "object-manager-port", "ray-client-server-port", "runtime-env-agent-port",
)  # fmt: skip


class RayHead:
    """Ports and folder of one head; the same after each restart, so that its clients find it again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))

    @property
    def address(self) -> str:
        """What clients are given as RAY_ADDRESS."""
        return f"{HOST}:{self._ports['port']}"

    @property
    def env(self) -> dict[str, str]:
        """For the head and for its clients.

        Ray replaces 127.0.0.1 by an address that others can reach, unless it is told, as on macOS, that there is no
        cluster of several machines; with a loopback address GCS, raylets and workers listen on loopback alone.
        Its Prometheus figures ask no token, so nobody serves them: the head's by a port that there is not.
        Its memory monitor would kill what can be restarted first, a host; here each trainer has its own limit, and
        the kernel takes a trainer (1000) before any other actor (300), and all of them before the control plane.
        """
        return {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_enable_metrics_collection": "0",
            "DASHBOARD_METRIC_PORT": "-1",
            "RAY_TMPDIR": str(self._folder),
            "RAY_memory_monitor_refresh_ms": "0",
            "RAY_worker_oom_score_adjustment": "300",
        }

    def command(self) -> list[str]:
        """``ray start`` that stays in the foreground; workers take free ports of the system's choice."""
        ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--include-dashboard=false"]
        ports = [f"--{name}={port}" for name, port in self._ports.items()]
        size = [f"--num-cpus={LOGICAL_CPUS}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
        quiet = ["--disable-usage-stats", "--no-monitor", "--include-log-monitor=false", "--log-style=record"]
        where = [f"--node-ip-address={HOST}", f"--temp-dir={self._folder}"]
        return [*ray, *where, *ports, "--min-worker-port=0", "--max-worker-port=0", *size, *quiet]

    def answers(self) -> bool:
        """Whether the raylet takes connections; it is the last to be started."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self._folder / "session_latest" / "sockets" / "raylet")) == 0
