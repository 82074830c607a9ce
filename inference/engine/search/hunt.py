"""One run of a search, from its start or from a checkpoint: rounds of trials, each climbing rungs together."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from tilth.contract.learning import Method
from tilth.contract.messages import ServedBy
from torch import Tensor

from inference.engine.adapting.classifier import of_encoder
from inference.engine.adapting.climb import Adapted, probed
from inference.engine.adapting.methods import METHODS
from inference.engine.batches import Batch
from inference.engine.candidate import Lesson, Session
from inference.engine.checkpoints import Progress, below
from inference.engine.encoder import TextEncoder
from inference.engine.errors import BudgetReached, Stopped
from inference.engine.evaluate import interval
from inference.engine.heads import Head
from inference.engine.outcome import LEAST_GAIN
from inference.engine.probe import probe_name, report_scores
from inference.engine.search.halving import RUNGS, Halving, rung_steps
from inference.engine.search.space import TOGETHER, Space, Told
from inference.engine.search.team import Team, teams
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

    encoders: Sequence[TextEncoder]
    """Of one lesson, in the order of the space's bases."""
    space: Space
    trials: int
    rows_at_once: int
    session: Session
    ended: list[Told] = field(default_factory=list)
    live: list[Trial] = field(default_factory=list)
    board: dict[int, dict[str, Any]] = field(default_factory=dict)
    _best: dict[str, Tensor] = field(default_factory=dict)
    _best_line: dict[str, Any] = field(default_factory=dict)
    _halving: Halving = field(default_factory=Halving)
    _level: int = 0
    _tokens: int = 0

    def best(self) -> Found | None:
        """Of all trials; None if none was judged."""
        self._first = self._steps = self.session.keeper.step
        self._resume()
        try:
            while len(self.ended) < self.trials:
                if not self.live:
                    self._ask()
                self._rung()
        except BudgetReached:
            self.session.reporter.note("The device time of the budget is used up; the best trial so far is kept.")
        return self._found()

    def _ask(self) -> None:
        count = min(TOGETHER, self.trials - len(self.ended))
        asked = self.space.ask(self.ended, count, self._lesson.seed)
        self.live, self._level = [self._begun(len(self.ended) + at, each) for at, each in enumerate(asked)], 0

    def _begun(self, number: int, params: dict[str, Any]) -> Trial:
        at = self.space.bases.index(self.space.base(params))
        method, recipe, head = (
            self.space.method(params),
            self.space.recipe(params),
            probed(self.session, probe_name(at)),
        )
        return Trial.begun(number, params, method, recipe, self.encoders[at], head)

    @property
    def _lesson(self) -> Lesson:
        return self.encoders[0].lesson

    def _rung(self) -> None:
        """All that live climb to their next rung and are judged there; the better part goes on."""
        goals = {each.number: rung_steps(each.run.steps)[self._level] for each in self.live}
        for team in teams(self.live, self.rows_at_once):
            self._climb(team, goals)
        ahead = self._level < RUNGS
        scores = [each.score for each in self.live]
        going = self._halving.promoted(self._level, scores) if ahead else [False] * len(scores)
        for trial, goes_on in zip(self.live, going, strict=True):
            if not goes_on or trial.state == "diverged":
                self._end(trial, whole=not ahead)
        self.live = [each for each in self.live if each.state == "running"]
        self._level += 1
        self._keep()

    def _climb(self, team: Team, goals: dict[int, int]) -> None:
        """A team's trials, judged at every point on their way to the rung."""
        while behind := [each for each in team.trials if each.state == "running" and each.step < goals[each.number]]:
            nearest = {each.number: min(at for at in each.points() if at > each.step) for each in behind}
            began = self.session.reporter.span.device_ms()
            team.advance(nearest, self._stepped)
            self._judge(team, [each for each in behind if each.state == "running"])
            spent = self.session.reporter.span.device_ms() - began
            for each in behind:
                each.device_ms += spent // len(behind)

    def _stepped(self, trials: Sequence[Trial], batch: Batch, losses: Sequence[float]) -> None:
        """Told, and asked whether to go on; a pause keeps a checkpoint first."""
        reporter = self.session.reporter
        self._steps += 1
        self._tokens += len(trials) * int(batch.attention_mask.sum())
        reporter.work(3.0 * len(batch.rows) * len(trials))
        lowest = min(losses)
        reporter.step(rung=NAME, step=self._steps, total_steps=self._expected(), loss=lowest, force=self._steps == 1)
        try:
            reporter.check(self._steps)
        except Stopped as stopped:
            if stopped.mode == "pause":
                self._keep()
            raise

    def _expected(self) -> int:
        """Steps of the whole search, judged from above: as if each round had one team that goes to the end."""
        rounds = -(-self.trials // TOGETHER)
        longest = max(each.run.steps for each in self.live)
        return max(self._steps, self._first + rounds * longest)

    def _judge(self, team: Team, trials: Sequence[Trial]) -> None:
        lesson, reporter = self._lesson, self.session.reporter
        for trial, outputs in zip(trials, team.outputs(trials, team.encoder.validation), strict=True):
            reporter.work(len(outputs))
            name = f"trial {trial.number}"
            scores = report_scores(reporter, lesson, name.capitalize(), name, trial.step, outputs)
            score = scores[f"valid_{lesson.objective.selects}"]
            trial.score = score - 1e-6 * scores["valid_loss"] - handicap(trial.method)
            trial.facts = {"score": round(score, 6), "interval": self._interval(outputs)}
            if trial.score > self._best_line.get("rank_score", float("-inf")):
                self._best = {**trial.run.model.learned(), "valid": outputs}
                self._best_line = {**trial.line(), "rank_score": trial.score, "params": trial.params}

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
            "scores": {str(rung): scores for rung, scores in self._halving.scores.items()}, "tokens": self._tokens,
        }  # fmt: skip
        at = Progress(NAME, self.space.rung, self._steps, 0, 0, first=self._first, state=state)
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
        self._halving = Halving({int(rung): scores for rung, scores in state["scores"].items()})
        self._level, self._tokens = state["level"], state["tokens"]
        self.live = [self._begun(facts["number"], facts["params"]) for facts in state["live"]]
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
        line = {name: value for name, value in self._best_line.items() if name not in ("rank_score", "params", "state")}
        params = self._best_line["params"]
        method, encoder = self.space.method(params), self.encoders[self.space.bases.index(self.space.base(params))]
        changes = METHODS[method].files(of_encoder(self._best), encoder.base, self.space.recipe(params))
        head = Head(self._best["head.weight"], self._best["head.bias"])
        model = Adapted(encoder, method, changes, head)
        board = [self.board[number] for number in sorted(self.board)] + [trial.line() for trial in self.live]
        board.sort(key=lambda line: -line.get("score", float("-inf")))
        return Found(model, self._best["valid"], board, self._tokens, line)


def handicap(method: Method) -> float:
    """By how much a model of its own must be better than one that shares its base with others."""
    return 0.0 if METHODS[method].served_by is ServedBy.STACKED else LEAST_GAIN


def _said(line: dict[str, Any]) -> str:
    """The numbers of a trial in a sentence."""
    named = ("base_model", "method", "rate", "rank", "targets", "smoothing", "epochs", "batch_size", "layers")
    told = ", ".join(f"{name} {_short(line[name])}" for name in named if name in line)
    return f"{told}; score {line['score']:.4f}" if "score" in line else told


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
