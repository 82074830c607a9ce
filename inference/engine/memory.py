"""What an attempt will take of memory, told before it learns: bytes, from the shapes of what it allocates.

Lengths are tokens of a padded row, ``hidden`` … as in the base model's configuration. What has no formula is measured
on MiniLM-L6 and named so; ``tests/bench/bench_memory.py`` puts predicted beside real.
"""

from dataclasses import dataclass

from inference.engine.spill import FLOAT, held, spills

MIB = 1 << 20
KERNELS = 100 * MIB
"""Measured: the library's compiled kernels, packed weights and threads, after the first forwards."""
SLACK = 1.9
"""Measured: glibc's aligned allocations of changing sizes leave holes; resident is so many times what is live."""
SOLVER_COPIES = 2 * 60
"""Vectors of the size of a head that L-BFGS keeps: two for each iteration (Nocedal 1980)."""
TOKEN_BYTES = 36
"""Of a token in a list: a place and an int."""
ROW_BYTES = 48
"""Of a row whose tokens are in a file: where they are, how many, in which order it is read."""
ENCODED = 4096
"""Rows that are encoded together."""
FITTED = 1 << 16
"""Rows whose outputs are held together while a linear model is fitted."""
BASELINE_NGRAM_BYTES = 150
"""Of an n-gram in a vocabulary: text, number, place."""
BASELINE_ENTRY_BYTES = 40
"""Of an n-gram of a row: index and count, twice, and the solver's own node."""


@dataclass(frozen=True)
class Encoder:
    """The shape of a base model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    parameters: int


@dataclass(frozen=True)
class Work:
    """What an attempt works on, and how."""

    encoder: Encoder
    rows: tuple[int, int, int]
    """Of train, validation and test."""
    longest: int
    """Tokens of the longest row."""
    classes: int
    """Outputs of a row."""
    rank: int
    """Of a low-rank method, else 0."""
    learns: int
    """Numbers that learn in the encoder; 0 if no more than the probe is asked for."""
    batch: int
    """Rows that go forward and back together."""
    evaluated: int
    """Rows that go forward together where nothing learns."""
    half: bool
    """Whether the encoder computes in bf16."""
    scaled: bool = False
    """Whether a low-rank method also learns magnitudes."""
    views: int = 1
    """Of each row, in a step."""
    trials: int = 1
    """Whose weights are held at once."""


@dataclass(frozen=True)
class Need:
    """Bytes above what is resident before, at the fullest moment of each part."""

    probe: int
    adapt: int
    finish: int

    @property
    def peak(self) -> int:
        """At the fullest moment."""
        return max(self.probe, self.adapt, self.finish)


def need(work: Work) -> Need:
    """What is predicted; what a part frees is not counted as returned, since glibc keeps most of it for the next."""
    train, valid, test = work.rows
    features = KERNELS + sum(held(rows, work.encoder.hidden) for rows in (train, valid))
    forward = int(SLACK * forward_token(work.encoder, half=work.half) * work.evaluated * work.longest)
    judged = 24 * (valid + test) * work.classes
    """Logits in fp32 and fp64, and their softmax."""
    crossed = 0 if spills(train, work.encoder.hidden) else FLOAT * train * (work.encoder.hidden + 2 * work.classes)
    """Features and outputs of the rows that a fold learns from."""
    read = ROW_BYTES * test + TOKEN_BYTES * min(test, ENCODED) * work.longest
    probe = features + max(forward, solver(work) + crossed) + judged
    learning = work.trials * learned(work) + activations(work)
    adapt = features + frozen(work) + learning + judged if work.learns else 0
    finish = features + FLOAT * work.learns + forward + judged + read
    return Need(probe, adapt, finish)


def activations(work: Work) -> int:
    """What a batch keeps for its way back: its tokens, and which of them see which, twice."""
    tokens = work.batch * work.views * work.longest
    token = trained_token(work.encoder, work.rank, half=work.half, scaled=work.scaled)
    return int(SLACK * (tokens * token + 2 * FLOAT * tokens * work.longest))


def trained_token(encoder: Encoder, rank: int, *, half: bool, scaled: bool = False) -> int:
    """Bytes that autograd saves for a token: counted in a BERT layer with LoRA on its six linear layers.

    In bf16: five of ``hidden`` (what linear layers read), two of ``intermediate``, and in fp32 what attention reads and
    gives (four of ``hidden``, so eight) and each layer norm's input; in fp32 the inputs of q, k, v and of the norms are
    one. Attention itself keeps a logsumexp per head (FlashAttention, Dao 2022, section 3.1). ``scaled``: both outputs
    of each linear layer, one in fp32, as magnitudes need them. A test compares with what autograd really saves.
    """
    size = FLOAT // 2 if half else FLOAT
    wide = size * ((13 if half else 6) * encoder.hidden + 2 * encoder.intermediate + 6 * rank)
    norms = FLOAT * (2 * encoder.hidden + encoder.heads + 4)
    outputs = (FLOAT + size) * (5 * encoder.hidden + encoder.intermediate) if scaled else 0
    return encoder.layers * (wide + norms + outputs)


def forward_token(encoder: Encoder, *, half: bool) -> int:
    """Bytes alive for a token in the middle of a layer, when nothing is kept: GELU's two sides, six of ``hidden``."""
    size = FLOAT // 2 if half else FLOAT
    return size * (2 * encoder.intermediate + 6 * encoder.hidden) + 2 * FLOAT * encoder.hidden


def learned(work: Work) -> int:
    """Weights that learn, gradients, AdamW's two moments, the best so far, and two copies while a checkpoint is
    written.
    """
    return 7 * FLOAT * (work.learns + work.classes * (work.encoder.hidden + 1))


def frozen(work: Work) -> int:
    """The linear layers' weights as autograd keeps them in bf16."""
    encoder = work.encoder
    square = encoder.layers * (4 * encoder.hidden**2 + 2 * encoder.hidden * encoder.intermediate)
    return 2 * square if work.half else 0


def solver(work: Work) -> int:
    """Logistic regression by L-BFGS: its history, and logits of all training rows with their softmax and gradient."""
    head = work.classes * (work.encoder.hidden + 1)
    return FLOAT * (SOLVER_COPIES * head + 4 * min(work.rows[0], FITTED) * work.classes)


def tfidf(characters: int, classes: int) -> int:
    """TF-IDF of characters (2-5) and words (1-2); the SVM keeps a weight, twice, of each n-gram for each class.

    Measured on banking77: 2.9 entries for each character, and different n-grams by Heaps' law, 115 · characters^0.447
    (9,291 in 300 rows, 43,948 in all).
    """
    entries = 2.9 * characters
    different = min(entries, 115 * characters**0.447)
    return int(BASELINE_ENTRY_BYTES * entries + different * (BASELINE_NGRAM_BYTES + 16 * max(1, classes)))


def told(size: int) -> str:
    """A size as people read it, e.g. 1,234 MB."""
    return f"{size / MIB:,.0f} MB"
