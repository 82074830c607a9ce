"""Small disks that can be full: a tmpfs over a folder, where this user may mount one."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
NEARLY = 16 * MIB
"""Left for others who write while a disk is filled at one stroke; then byte by byte."""


@dataclass(frozen=True)
class Disk:
    """A mounted one; ``fill`` takes every byte, ``free`` gives them back."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as file:
            most = max(1, shutil.disk_usage(self.folder).free - NEARLY)
            with suppress(OSError):  # others were faster
                os.posix_fallocate(file.fileno(), 0, most)
            file.seek(0, os.SEEK_END)
            for size in (MIB, 4096):
                with suppress(OSError):  # that was the last one of this size
                    while file.write(b"\0" * size):
                        pass

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Disk | None]:
    """Over an empty folder, so many bytes large; None where nothing can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},mode=0755"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
