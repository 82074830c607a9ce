"""Named crash points: a test names one in TILTH_CRASH_AT and this process dies there, as by kill -9."""

import os
import signal

from django.conf import settings


def crash_point(name: str) -> None:
    """Kills this process if the environment asks for a crash at this point."""
    if settings.ENV.crash_at == name:
        os.kill(os.getpid(), signal.SIGKILL)
