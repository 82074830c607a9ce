"""What is wrong with a file's rows, told so that it can be mended: line, column, value, cure; and how it is counted."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

KEPT = 100
"""Problems that a report lists; beyond that they are counted."""
TOLD = 5
"""Problems that an error's sentence names."""
SHOWN_CHARS = 80


@dataclass(frozen=True)
class Problem:
    """One thing wrong in one place, e.g. line 17, column "utterance": the text is empty."""

    kind: str
    message: str
    cure: str
    line: int | None = None
    """Of the file, from 1, where the row begins; or the row's number, by ``unit``."""
    column: str | None = None
    value: str | None = None
    """As much of the cell as can be shown."""
    file: str = ""
    unit: str = "line"

    def sentence(self) -> str:
        """For people."""
        where = ", ".join(filter(None, (self.file, f"{self.unit} {self.line}" if self.line else "")))
        column = f', column "{self.column}"' if self.column else ""
        value = f" (found {self.value})" if self.value else ""
        return f"{where}{column}: {self.message}{value}; {self.cure}"


@dataclass
class Problems:
    """All that was found of one severity; the first ones in full."""

    by_kind: Counter[str] = field(default_factory=Counter)
    first: list[Problem] = field(default_factory=list)

    def add(self, problem: Problem, times: int = 1) -> None:
        """Counts one; ``times`` more rows may stand behind it."""
        self.by_kind[problem.kind] += times
        if len(self.first) < KEPT:
            self.first.append(problem)

    def add_uncounted(self, kind: str, times: int) -> None:
        """Counts rows of which no more is told."""
        if times:
            self.by_kind[kind] += times

    @property
    def total(self) -> int:
        """Rows, or places, that have one."""
        return self.by_kind.total()

    def as_json(self) -> dict[str, Any]:
        """``{"total", "by_kind", "first"}``."""
        first = [asdict(problem) for problem in sorted(self.first, key=lambda p: (p.file, p.line or 0))]
        return {"total": self.total, "by_kind": dict(self.by_kind), "first": first}

    def told(self) -> str:
        """The first few as one text."""
        first = sorted(self.first, key=lambda p: (p.file, p.line or 0))[:TOLD]
        more = self.total - len(first)
        return ". ".join([*(problem.sentence() for problem in first), *([f"And {more:,} more"] if more > 0 else [])])


def shown(value: str | None) -> str:
    """A cell as it can be shown: quoted, one line, not too long."""
    if value is None:
        return "no plain value"
    short = value if len(value) <= SHOWN_CHARS else f"{value[:SHOWN_CHARS]}… ({len(value):,} characters)"
    return '"' + short.encode("utf-8", "replace").decode().replace("\n", "⏎").replace("\r", "").replace("\0", "␀") + '"'
