"""What the preflight predicts of a job's peak memory beside what the job really takes, each in a fresh process."""

from tests.inference.memory_shapes import MIB, Shape, measure

NAME = "memory"
SHAPES = (
    Shape(600, 16, 10, rung="probe"),
    Shape(120, 16, 10, batch=16),
)
MORE = (
    Shape(160, 128, 10, batch=64),
    Shape(3000, 16, 600, rung="probe"),
    Shape(20_000, 16, 77, rung="probe"),
    Shape(320, 128, 10, batch=128),
    Shape(160, 128, 10, batch=64, memory_mb=900),
    Shape(90, 128, 10, batch=64, memory_mb=900, lie=0.05),
)
"""The last two have a limit: the preflight takes fewer rows at once; told a wrong number, the step does."""


def run(*, full: bool) -> list[dict[str, str]]:
    """One line for each shape."""
    return [line(shape) for shape in (*SHAPES, *(MORE if full else ()))]


def line(shape: Shape) -> dict[str, str]:
    """MB at the peak; the job's own part is what comes on top of the process with its base model loaded."""
    found = measure(shape)
    limit = f"{(found.start >> 20) + shape.memory_mb:,}" if shape.memory_mb else ""
    lied = " (told a wrong number)" if shape.lie != 1 else ""
    grown = (found.predicted - found.start) / max(1, found.peak - found.start)
    made = {"job": shape.name() + lied, "limit MB": limit, "at once": str(found.rows_at_once), "ended": found.ended}
    made |= {"at start MB": f"{found.start / MIB:,.0f}", "predicted MB": f"{found.predicted / MIB:,.0f}"}
    made |= {"real MB": f"{found.peak / MIB:,.0f}", "predicted ÷ real": f"{found.predicted / found.peak:.2f}"}
    print("  " + ", ".join(made.values()), flush=True)
    return made | {"job's own part": f"{grown:.2f}"}
