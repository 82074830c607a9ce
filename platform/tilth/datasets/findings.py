"""What only all rows together show: contradictions, leaks between splits, labels too rare, duplicates."""

from collections.abc import Sequence

from tilth.contract.vertical import FieldKind, Schema
from tilth.core.errors import Invalid
from tilth.datasets.checks import target_of
from tilth.datasets.intake import Intake, Source
from tilth.datasets.report import Problem, Problems, shown
from tilth.datasets.splits import Way
from tilth.datasets.table import Rows

FEWEST_ROWS = 10
"""Different rows to learn from: fewer leave nothing to validate and to test with."""


class Findings:
    """Looks through the table; what it finds wrong it takes out."""

    def __init__(self, rows: Rows, sources: Sequence[Source], intake: Intake, schema: Schema) -> None:
        self._rows, self._sources = rows, sources
        self._columns = [{match.role: match.column for match in of_file} for of_file in intake.matches]
        self._units = [str(about["unit"]) for about in intake.about]
        target = target_of(schema)
        self._target = target.role if target else ""
        self.labelled = target is not None and target.kind is FieldKind.LABEL
        self.several = target is not None and target.kind is FieldKind.LABELS
        self.outside = schema.out_of_scope_labels
        self.name = sources[0].name
        """Of the training file."""
        self._may_differ = schema.free_columns is not None
        """Equal features under two labels are chance (of two borrowers alike one pays); equal texts are a slip."""
        self.problems, self.warnings = intake.problems, Problems()

    def look(self, way: Way) -> None:
        """Everything, in the order in which one finding can hide another; ``way`` is how rows are to be split."""
        if (self.labelled or self.several) and not self._may_differ:
            self._conflicts()
        self._leaks()
        if way.group and len(self._rows.placing.wanted()) < 2:
            self._strays(way)
        if self.labelled and self._rows.classes(but=self.outside) > 1:
            self._rare()
            self._unseen()
        self._duplicates()

    def refuse_hopeless(self) -> None:
        """Raises Invalid for what cannot be learned however many rows are left out."""
        name, param = self._sources[0].name, self._sources[0].param
        if self.labelled and (classes := self._rows.classes(but=self.outside)) < 2:
            only = ", ".join(shown(label) for label in self._rows.labels_left(self.outside))
            what = f"every row has the label {only}" if classes else "no row with a label is left"
            raise Invalid(
                f"{name}: {what}; a model needs examples of at least two labels to tell apart.",
                param=param,
                code="single_class",
            )
        if self.several and not self._rows.classes(but=self.outside):
            message = f"{name}: no training row has a label; an empty cell means none of them. Give rows with labels."
            raise Invalid(message, param=param, code="no_label")
        if (different := self._rows.learnable_groups()) < FEWEST_ROWS:
            raise Invalid(
                f"{name}: {different} different rows can be learned from; at least {FEWEST_ROWS} are needed, "
                "and a few dozen of each label make a good model.",
                param=param,
                code="too_few_rows",
            )

    def _conflicts(self) -> None:
        count, first = self._rows.take_conflicts()
        for source, line, label, other_source, other_line, other in first:
            message = f"the same text is labelled {shown(other)} {self._at(other_source, other_line, source)}"
            self._problem("two_labels", message, "keep one of the labels", source, line, label)
        self.problems.add_uncounted("two_labels", count - len(first))

    def _rare(self) -> None:
        for source, line, label, rows in self._rows.take_rare(but=self.outside):
            message = "the label has only one different example to learn from"
            self._problem("rare_label", message, "add more examples of it, or remove it", source, line, label, rows)

    def _unseen(self) -> None:
        count, first = self._rows.take_unseen(but=self.outside)
        for source, line, label in first:
            message = "no row of the training side has this label"
            self._problem("unseen_label", message, "add training rows of it, or remove the row", source, line, label)
        self.problems.add_uncounted("unseen_label", count - len(first))

    def _leaks(self) -> None:
        count, first = self._rows.take_leaks()
        for source, line, side, other_source, other_line, other in first:
            message = f"the same row stands in {other} {self._at(other_source, other_line, source)}"
            cure = f"it is left out of {side}, so that figures stay honest"
            self._warning("in_two_splits", message, cure, source, line)
        self.warnings.add_uncounted("in_two_splits", count - len(first))

    def _strays(self, way: Way) -> None:
        """Taken out only if that was said: the customer's own splits may mean it so."""
        self._rows.placing.connect(grouped=True)
        count, first = self._rows.placing.strays()
        cure = "figures flatter; send split='grouped' to leave such rows out"
        if way.said:
            self._rows.placing.take_strays()
            cure = "it is left out, so that figures stay honest"
        for source, line, side, other in first:
            message = f"the row is in {side}, and others of the same {way.group!r} are in {other}"
            self._warning("group_in_two_splits", message, cure, source, line)
        self.warnings.add_uncounted("group_in_two_splits", count - len(first))

    def warn(self, kind: str, message: str, cure: str, times: int = 1) -> None:
        """Something of the training file as a whole."""
        self.warnings.add(Problem(kind, message, cure, file=self.name), times)

    def _duplicates(self) -> None:
        count, first = self._rows.duplicates()
        for source, line, other_source, other_line in first:
            message = f"the same row stands {self._at(other_source, other_line, source)}"
            self._warning("duplicate", message, "both are kept, on the same side of the split", source, line)
        self.warnings.add_uncounted("duplicate", count - len(first))

    def _problem(self, kind: str, message: str, cure: str, source: int, line: int, label: str, times: int = 1) -> None:
        column = self._columns[source].get(self._target)
        file, unit = self._sources[source].name, self._units[source]
        self.problems.add(Problem(kind, message, cure, line, column, shown(label), file, unit), times)

    def _warning(self, kind: str, message: str, cure: str, source: int, line: int) -> None:
        self.warnings.add(
            Problem(kind, message, cure, line, file=self._sources[source].name, unit=self._units[source])
        )  # fmt: skip

    def _at(self, source: int, line: int, seen_from: int) -> str:
        return f"at {self._units[source]} {line}" + (f" of {self._sources[source].name}" if source != seen_from else "")
