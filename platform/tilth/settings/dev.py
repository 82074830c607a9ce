"""Settings of the embedded stack: plain HTTP on loopback."""

from tilth.settings.base import *  # noqa: F403
from tilth.settings.base import ENV

DEBUG = ENV.debug
