"""Climbs the candidates, cheapest first: each learns, the better is kept, hopeless rungs are left out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tilth.contract.learning import Rung
from tilth.contract.messages import TrainingOptions

from inference.engine.candidate import Candidate, Lesson, Outcome, Refines, Session
from inference.engine.errors import BudgetReached, JobFault
from inference.engine.evaluate import interval
from inference.engine.keeping import Keeper
from inference.engine.outcome import Comparison, compare, unseen
from inference.engine.reporting import Reporter

if TYPE_CHECKING:
    from inference.engine.search.leg import Hire

LATENCY_ROWS = 32
HEIGHT = {rung: height for height, rung in enumerate(Rung)}


@dataclass(frozen=True)
class Climbed:
    """The chosen outcome, why it was chosen, and how all that learned compare."""

    outcome: Outcome
    reason: str
    comparison: Comparison | None
    board: list[dict[str, Any]]
    """The leaderboard: one line for each candidate, in the order in which they learned."""
    tokens: int
    """Read by all of them."""
    done: dict[str, Outcome]
    """By name."""

    def crossed(self) -> Outcome | None:
        """Of those that were cross-fitted the one that the board puts first."""
        named = {str(line["name"]): float(line["score"]) for line in self.board if "score" in line}
        found = [outcome for name, outcome in self.done.items() if outcome.crossed is not None and name in named]
        return max(found, key=lambda outcome: named[outcome.name], default=None)


@dataclass
class Ladder:
    """One climb over one lesson; ``keeper`` holds what a resume needs."""

    candidates: Sequence[Candidate]
    lesson: Lesson
    options: TrainingOptions
    reporter: Reporter
    keeper: Keeper
    hire: "Hire | None" = None
    done: dict[str, Outcome] = field(default_factory=dict)
    _board: list[dict[str, Any]] = field(default_factory=list)

    def climb(self) -> Climbed:
        """The best model for the budget; raises Stopped between two steps, JobFault if nothing can be learned."""
        best, reason, compared = self._first(), "the job asked for no more", None
        for candidate in self.candidates[1:]:
            if why_not := self._left_out(candidate, best):
                reason = reason if compared else why_not
                self._leave_out(candidate, why_not)
                continue
            self._keep_done(candidate)
            outcome = self._learned(candidate)
            if outcome is None:
                reason = f"{candidate.title} gave no result that could be judged"
                self._leave_out(candidate, reason)
                break
            best, reason, compared = self._better(candidate, outcome, best)
        self.keeper.keep_done(self.done)
        return Climbed(best, reason, compared, self._board, sum(each.tokens for each in self.done.values()), self.done)

    def _first(self) -> Outcome:
        candidate = self.candidates[0]
        try:
            outcome = self._learned(candidate)
        except BudgetReached as end:
            raise JobFault("budget_too_small", f"{end} before any model was learned; raise the budget") from end
        if outcome is None:
            raise JobFault("budget_too_small", f"{candidate.title} gave no model; raise the budget")
        return outcome

    def _learned(self, candidate: Candidate) -> Outcome | None:
        """By the candidate, or by its twin of an earlier attempt."""
        name = candidate.name
        outcome = self.keeper.reopened(candidate)
        began = self.reporter.span.device_ms()
        try:
            outcome = outcome or candidate.learn(Session(self.reporter, self.keeper, self.done, self.hire))
        except BudgetReached:
            if not self.done:
                raise
        if outcome is None:
            return None
        self.done[name] = outcome
        self._board.append(self._line(candidate, outcome, self.reporter.span.device_ms() - began))
        return outcome

    def _left_out(self, candidate: Candidate, best: Outcome) -> str:
        """Why a candidate need not learn; empty if it should."""
        if HEIGHT[candidate.rung] <= HEIGHT[best.rung]:
            return ""
        most = self.lesson.objective.headroom(*unseen(best, self.lesson, crossed=best.crossed is not None))
        if most < self.options.minimum_gain:
            return f"{candidate.title} could gain at most {100 * most:.2f} points"
        return ""

    def _better(self, candidate: Candidate, new: Outcome, best: Outcome) -> tuple[Outcome, str, Comparison]:
        compared = compare(new, best, self.lesson)
        told = f"{100 * compared.gain:+.2f} points [{100 * compared.low:+.2f}, {100 * compared.high:+.2f}]"
        refined = isinstance(candidate, Refines) and candidate.refines == best.name
        if compared.few and not refined:
            apart = "lower" if compared.loss_gain > 0 else "higher"
            told += f"; of only {compared.rows} rows the loss decides, {abs(compared.loss_gain):.3f} {apart}"
        cheaper = next(each.title for each in self.candidates if each.name == best.name)
        if compared.no_loss if refined else compared.worth_it:
            return new, f"{candidate.title} over {cheaper} on validation: {told}", compared
        return best, f"{candidate.title} gains too little over {cheaper} on validation: {told}", compared

    def _keep_done(self, ahead: Candidate) -> None:
        """Before each dear candidate: from the first on something servable is in a checkpoint."""
        if HEIGHT[ahead.rung] > HEIGHT[self.candidates[0].rung]:
            self.keeper.keep_done(self.done)

    def _leave_out(self, candidate: Candidate, why: str) -> None:
        self._board.append({"name": candidate.name, "rung": candidate.rung.value, "left_out": why})

    def _latency(self, outcome: Outcome) -> float:
        """Milliseconds that the model takes for LATENCY_ROWS rows of validation, here; opened before."""
        rows = self.lesson.validation[:LATENCY_ROWS]
        outcome.model.outputs(rows[:1])
        began = time.perf_counter()
        outcome.model.outputs(rows)
        return round(1000 * (time.perf_counter() - began), 2)

    def _line(self, candidate: Candidate, outcome: Outcome, device_ms: int) -> dict[str, Any]:
        objective = self.lesson.objective
        outputs, targets = unseen(outcome, self.lesson, crossed=outcome.crossed is not None)
        low, high = interval(lambda draws: objective.resampled(outputs, targets, draws), len(targets))
        return {
            "name": candidate.name, "rung": candidate.rung.value, "metric": objective.selects,
            "score": round(objective.score(outputs, targets), 6), "interval": [round(low, 6), round(high, 6)],
            "judged_rows": len(targets), "bytes": sum(map(len, outcome.model.files().values())), **outcome.facts,
            "device_ms": device_ms, "ms_for_32_rows": self._latency(outcome),
        }  # fmt: skip
