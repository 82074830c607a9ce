"""In the places of a job's reporter and keeper: nothing is told, nothing is kept, nothing stops."""

from typing import Any


class Silent:
    """A reporter that says nothing."""

    def device_ms(self) -> int:
        """No span."""
        return 0

    def __getattr__(self, name: str) -> Any:
        return self if name == "span" else lambda *_, **__: None


class NoCheckpoints:
    """A keeper that keeps nothing."""

    step = 0

    def running(self, candidate: str) -> None:
        """Nothing was kept before."""

    def reopened(self, candidate: Any) -> None:
        """Nothing was kept before."""

    def keep_running(self, *_: Any) -> None:
        """No checkpoint."""

    def keep_done(self, *_: Any) -> None:
        """No checkpoint."""
