"""Every crash point of the reader and the runner; a test kills the worker at each of them."""

CRASH_POINTS = (
    "read.stored",
    "read.validated",
    "read.committed",
    "chunk.taken",
    "chunk.begun",
    "chunk.answered",
    "chunk.stored",
    "chunk.billed",
    "chunk.recorded",
    "chunk.committed",
    "finishing.begun",
    "finishing.stored",
    "finishing.ended",
    "finishing.committed",
)
