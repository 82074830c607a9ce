"""Which way rows are split, and why: by time, by whose they are, or at random; as the customer says, else the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tilth.contract.vertical import Schema
from tilth.core.errors import Invalid
from tilth.datasets.columns import Match


class How(StrEnum):
    """Equal rows are on one side in all of them."""

    RANDOM = "random"
    GROUPED = "grouped"
    TIME = "time"


HOWS = [how.value for how in How]


@dataclass(frozen=True)
class Way:
    """One way to split, and why it is taken."""

    how: How
    why: str
    group: str | None = None
    """Column of whose a row is, where that counts."""
    time: str | None = None
    said: bool = False


def ways(schema: Schema, matches: Sequence[Match], said: str | None) -> list[Way]:
    """What may be done, the best first; one alone if it is ``said``. Raises Invalid where its column is not there."""
    column = {match.role: match.column for match in matches}
    group = column.get(schema.group.role) if schema.group else None
    time = column.get(schema.time.role) if schema.time else None
    there = [
        *([Way(How.TIME, _by_time(time, group), group, time)] if time else []),
        *([Way(How.GROUPED, _by_group(group), group)] if group else []),
        Way(How.RANDOM, "at random, each label in its share; equal rows stay together"),
    ]
    if said is None:
        return there
    if wanted := [way for way in there if way.how == said]:
        return [Way(wanted[0].how, wanted[0].why, wanted[0].group, wanted[0].time, said=True)]
    raise _no_column(schema, How(said))


def _by_time(time: str, group: str | None) -> str:
    told = f"by the column {time!r}: the oldest rows are for training, the newest for test"
    return f"{told}; rows of one {group!r} stay together, where its newest belongs" if group else told


def _by_group(group: str) -> str:
    return f"by the column {group!r}: all rows of one are on the same side"


def _no_column(schema: Schema, how: How) -> Invalid:
    field = schema.time if how is How.TIME else schema.group
    if field is None:
        what = "when a row came about" if how is How.TIME else "whose a row is"
        message = f"split={how.value!r} needs a role that says {what}; this vertical has none. Send split='random'."
        return Invalid(message, param="split", code="no_such_split")
    example = f'columns={{"{field.role}": "{(field.aliases or (field.role,))[0]}"}}'
    return Invalid(
        f"split={how.value!r} needs a column for the role {field.role!r} ({field.title}), and none was found. Say "
        f"which it is, e.g. {example}, or send split='random'.",
        param="split",
        code="missing_role",
    )
