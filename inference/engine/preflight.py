"""Before anything is learned: what the work will take of memory beside what is there, told to the customer."""

from collections.abc import Sequence
from dataclasses import dataclass

from tilth.contract.messages import EventKind

from inference.engine import limits
from inference.engine.candidate import Candidate, Dispensable
from inference.engine.errors import JobFault
from inference.engine.memory import told
from inference.engine.spool import Spool


@dataclass(frozen=True)
class Plan:
    """How the work is done within the memory that is there."""

    candidates: list[Candidate]
    predicted: int
    """Bytes above what is resident before, at the fullest moment."""
    with_baseline: bool


def plan(candidates: Sequence[Candidate], tests: int, baseline: int, available: int) -> Plan:
    """Each candidate as it fits, smaller where it must be, or not at all; then without the baseline; bytes.

    Raises JobFault naming what would be needed and what is there.
    """
    kept = [each for each in candidates if not _can_be_spared(each) or each.need(tests) <= available] or candidates[:1]
    fit = [_fitting(candidate, tests, available) for candidate in kept]
    peak = max(candidate.need(tests) for candidate in fit)
    with_baseline = peak + baseline <= available
    return Plan(fit, peak + (baseline if with_baseline else 0), with_baseline)


def preflight(candidates: Sequence[Candidate], tests: int, baseline: int, limit: int, spool: Spool) -> Plan:
    """The plan below a limit of bytes, told; raises JobFault with the number for work that cannot fit."""
    resident, available = limits.resident(), limits.growth(limit)
    found = plan(candidates, tests, baseline, available)
    at_once = [each.rows_at_once for each in found.candidates if each.rows_at_once is not None]
    names = {each.name for each in found.candidates}
    smaller = found.candidates != [each for each in candidates if each.name in names]
    parts = f"; {min(at_once)} rows of a batch at once" if smaller else ""
    without = [each.title for each in candidates if each.name not in names]
    without += [] if found.with_baseline else ["the plain baseline beside it"]
    left_out = f"; without {' and '.join(without)}" if without else ""
    predicted = resident + found.predicted
    facts = {"predicted_bytes": predicted, "resident_bytes": resident, "available_bytes": available}
    message = f"Memory: about {told(predicted)} of {told(resident + available)}{parts}{left_out}"
    spool.emit(EventKind.MESSAGE, message, data={**facts, "rows_at_once": min(at_once, default=0)})
    return found


def _can_be_spared(candidate: Candidate) -> bool:
    return isinstance(candidate, Dispensable) and candidate.dispensable


def _fitting(candidate: Candidate, tests: int, available: int) -> Candidate:
    while (needed := candidate.need(tests)) > available:
        smaller = candidate.smaller()
        if smaller is None:
            raise JobFault("memory", _refusal(candidate, needed, available))
        candidate = smaller
    return candidate


def _refusal(candidate: Candidate, needed: int, available: int) -> str:
    return (
        f"Learning by {candidate.title} from {candidate.size()} would need {told(needed)} of memory beyond the base"
        f" model, at its smallest; {told(available)} are there."
        " Give fewer rows, fewer classes or shorter texts, or choose a smaller base model."
    )
