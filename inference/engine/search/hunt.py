"""One run of a search, from its start or from a checkpoint: rounds of trials, each climbing rungs together."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from tilth.contract.learning import Method
from tilth.contract.messages import ServedBy
from torch import Tensor

from inference.engine.adapting.climb import Adapted, adapted
from inference.engine.adapting.methods import METHODS
from inference.engine.candidate import Lesson, Session
from inference.engine.checkpoints import Progress, below
from inference.engine.errors import BudgetReached, Stopped
from inference.engine.evaluate import interval
from inference.engine.outcome import LEAST_GAIN
from inference.engine.probe import report_scores
from inference.engine.search.ground import Ground
from inference.engine.search.halving import RUNGS, Halving, rung_steps
from inference.engine.search.leg import Here, Leg, Runner, Stepped
from inference.engine.search.sampler import TOGETHER, Told
from inference.engine.search.team import teams
from inference.engine.search.trial import Trial, of_trial

NAME = "search"


@dataclass(frozen=True)
class Found:
    """The best trial's model, its outputs on validation, and how all trials did."""

    model: Adapted
    valid: Tensor
    board: list[dict[str, Any]]
    tokens: int
    facts: dict[str, Any]


@dataclass
class Hunt:
    """The state of a search; everything in it is in its checkpoints."""

    ground: Ground
    trials: int
    rows_at_once: int
    session: Session
    ended: list[Told] = field(default_factory=list)
    live: list[Trial] = field(default_factory=list)
    board: dict[int, dict[str, Any]] = field(default_factory=dict)
    _best: dict[str, Tensor] = field(default_factory=dict)
    _best_line: dict[str, Any] = field(default_factory=dict)
    _halvings: dict[str, Halving] = field(default_factory=dict)
    """By method."""
    _level: int = 0
    _tokens: int = 0
    _runner: Runner = field(default_factory=Here)

    def best(self) -> Found | None:
        """Of all trials; None if none was judged."""
        self._first = self._steps = self.session.keeper.step
        self._resume()
        hire = self.session.hire
        try:
            with hire(self.ground.packed()) if hire else nullcontext(Here()) as self._runner:
                while len(self.ended) < self.trials:
                    self._rung()
        except BudgetReached:
            self.session.reporter.note("The device time of the budget is used up; the best trial so far is kept.")
        except Stopped as stopped:
            if stopped.mode == "pause":
                self._keep()
            raise
        return self._found()

    def _ask(self) -> None:
        count = min(TOGETHER, self.trials - len(self.ended))
        asked = self.ground.space.ask(self.ended, count, self._lesson.seed)
        self.live = [self.ground.begun(len(self.ended) + at, each) for at, each in enumerate(asked)]
        self._level = 0

    @property
    def _lesson(self) -> Lesson:
        return self.ground.lesson

    def _rung(self) -> None:
        """All that live climb to their next rung and are judged on their way and there; the better part goes on."""
        if not self.live:
            self._ask()
        self._climb({each.number: rung_steps(each.run.steps)[self._level] for each in self.live})
        ahead = self._level < RUNGS
        going = self._promoted() if ahead else set[int]()
        for trial in self.live:
            if trial.number not in going or trial.state == "diverged":
                self._end(trial, whole=not ahead)
        self.live = [each for each in self.live if each.state == "running"]
        self._level += 1
        self._keep()

    def _promoted(self) -> set[int]:
        """Numbers of those that go on: each trial stands among those of its method.

        One that moves little is ahead while the others warm up, and behind when they have settled.
        """
        going = set[int]()
        for method in dict.fromkeys(each.method for each in self.live):
            own = [each for each in self.live if each.method is method]
            halving = self._halvings.setdefault(method.value, Halving())
            promoted = halving.promoted(self._level, [each.score for each in own])
            going |= {each.number for each, goes_on in zip(own, promoted, strict=True) if goes_on}
        return going

    def _climb(self, rung: dict[int, int]) -> None:
        """Leg by leg, whoever goes them."""
        made = teams(self.live, self.rows_at_once)
        while legs := [leg for team in made if (leg := Leg.of(team, rung))]:
            for leg, outputs in self._runner.walk(legs, self._hear, self._check):
                for trial in leg.team.trials:
                    if trial.number in outputs:
                        self._judge(trial, outputs[trial.number])

    def _hear(self, steps: Sequence[Stepped]) -> None:
        reporter = self.session.reporter
        for step in steps:
            first, self._steps = self._steps == self._first, self._steps + 1
            self._tokens += step.trials * step.tokens
            reporter.work(3.0 * step.rows * step.trials)
            if step.loss is not None:
                reporter.step(rung=NAME, step=self._steps, total_steps=self._expected(), loss=step.loss, force=first)

    def _check(self) -> None:
        self.session.reporter.check(self._steps)

    def _expected(self) -> int:
        """Steps of the whole search, judged from above: as if each round had one team that goes to the end."""
        rounds = -(-self.trials // TOGETHER)
        longest = max(each.run.steps for each in self.live)
        return max(self._steps, self._first + rounds * longest)

    def _judge(self, trial: Trial, outputs: Tensor) -> None:
        lesson, reporter = self._lesson, self.session.reporter
        reporter.work(len(outputs))
        name = f"trial {trial.number}"
        scores = report_scores(reporter, lesson, name.capitalize(), name, trial.step, outputs)
        score = scores[f"valid_{lesson.objective.selects}"]
        trial.score, trial.judged = score - 1e-6 * scores["valid_loss"] - handicap(trial.method), trial.step
        trial.facts = {"score": round(score, 6), "interval": self._interval(outputs)}
        if self._is_best(trial):
            self._best = {**trial.run.model.learned(), "valid": outputs}
            self._best_line = {**trial.line(), "standing": [trial.far, trial.score], "params": trial.params}

    def _is_best(self, trial: Trial) -> bool:
        """Of two that are equal the earlier one, whoever was judged first.

        One that has gone far goes before all that have not: of many early scores the best is so by luck, too.
        """
        best: list[Any] = self._best_line.get("standing", [False, float("-inf")])
        number: int = self._best_line.get("trial", trial.number)
        own = [trial.far, trial.score]
        return own > best or (own == best and trial.number < number)

    def _interval(self, outputs: Tensor) -> list[float]:
        known, objective = self._lesson.known, self._lesson.objective
        found, targets = outputs[known], self._lesson.validation_targets[known]
        ends = interval(lambda draws: objective.resampled(found, targets, draws), len(targets))
        return [round(end, 6) for end in ends]

    def _end(self, trial: Trial, *, whole: bool) -> None:
        """What a trial that ran away tells the sampler is the worst that was seen."""
        diverged = trial.state == "diverged"
        if not diverged:
            trial.state = "ended" if whole else "stopped"
        worst = min((told.score for told in self.ended), default=0.0)
        self.ended.append(Told(trial.params, worst if diverged else trial.score, whole))
        self.board[trial.number] = trial.line()
        done = f"{trial.step} of {trial.run.steps} steps"
        self.session.reporter.note(f"Trial {trial.number} {trial.state} after {done}: {_said(trial.line())}")

    def _keep(self) -> None:
        """A checkpoint of everything."""
        tensors = {f"best.{name}": tensor for name, tensor in self._best.items()}
        for trial in self.live:
            tensors |= {f"trial.{trial.number}.{name}": tensor for name, tensor in trial.tensors().items()}
        state = {
            "ended": [asdict(told) for told in self.ended], "live": [trial.plain() for trial in self.live],
            "board": list(self.board.values()), "best": self._best_line, "level": self._level,
            "scores": {name: halving.scores for name, halving in self._halvings.items()}, "tokens": self._tokens,
        }  # fmt: skip
        at = Progress(NAME, self.ground.space.rung, self._steps, 0, 0, first=self._first, state=state)
        self.session.keeper.keep_running(at, tensors, {})

    def _resume(self) -> None:
        kept = self.session.keeper.running(NAME)
        if kept is None:
            return
        progress, tensors = kept
        state, self._first = progress.state, progress.first
        self.ended = [Told(**told) for told in state["ended"]]
        self.board = {line["trial"]: line for line in state["board"]}
        self._best, self._best_line = below("best.", tensors), state["best"]
        self._halvings = {name: Halving(_numbered(scores)) for name, scores in state["scores"].items()}
        self._level, self._tokens = state["level"], state["tokens"]
        self.live = [self.ground.begun(facts["number"], facts["params"]) for facts in state["live"]]
        for trial, facts in zip(self.live, state["live"], strict=True):
            trial.restore(of_trial(trial.number, tensors), facts)
        if progress.threads != torch.get_num_threads():
            self.session.reporter.note(
                f"Paused with {progress.threads} threads, resumed with {torch.get_num_threads()}: the same but for"
                " rounding."
            )

    def _found(self) -> Found | None:
        if not self._best:
            return None
        line = {name: value for name, value in self._best_line.items() if name not in ("standing", "params", "state")}
        params, space = self._best_line["params"], self.ground.space
        method, encoder = space.method(params), self.ground.encoder(params)
        model = adapted(encoder, method, space.recipe(params), self._best)
        board = [self.board[number] for number in sorted(self.board)] + [trial.line() for trial in self.live]
        board.sort(key=lambda line: -line.get("score", float("-inf")))
        return Found(model, self._best["valid"], board, self._tokens, line)


def handicap(method: Method) -> float:
    """By how much a model of its own must be better than one that shares its base with others."""
    return 0.0 if METHODS[method].served_by is ServedBy.STACKED else LEAST_GAIN


def _numbered(scores: dict[str, list[float]]) -> dict[int, list[float]]:
    """By rung: JSON's keys are texts."""
    return {int(rung): found for rung, found in scores.items()}


def _said(line: dict[str, Any]) -> str:
    """The numbers of a trial in a sentence."""
    named = ("base_model", "method", "rate", "rank", "targets", "smoothing", "epochs", "batch_size", "layers")
    told = ", ".join(f"{name} {_short(line[name])}" for name in named if name in line)
    return f"{told}; score {line['score']:.4f}" if "score" in line else told


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
