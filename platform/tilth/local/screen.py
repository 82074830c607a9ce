"""What the terminal shows of the supervisor: a line for each part when it is ready, dies or fails to start."""

from types import TracebackType

from rich.console import Console

from tilth.local.supervisor import What


class Screen:
    """While it is entered, a spinner names what is being started."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._starting: list[str] = []
        self._spinner = console.status("starting")

    def __enter__(self) -> "Screen":
        self._spinner.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._spinner.stop()

    def told(self, name: str, what: What, more: str) -> None:
        """Takes news of a part."""
        match what:
            case "launched":
                self._starting.append(name)
            case "ready":
                self._forget(name)
                self._console.print(f"  [green]✓[/green] {name:<10} [dim]{more}[/dim]")
            case "died":
                self._forget(name)
                self._console.print(f"  [red]✗[/red] {name} has died; it is started again [dim]{more}[/dim]")
            case "stopped":
                self._console.print(f"  [dim]■ {name:<10} {more}[/dim]")
        self._spinner.update("starting " + ", ".join(self._starting))

    def _forget(self, name: str) -> None:
        if name in self._starting:
            self._starting.remove(name)
