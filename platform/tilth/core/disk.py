"""What makes a change of names durable on a local disk."""

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """A renamed file is on disk under its new name only when its folder is."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
