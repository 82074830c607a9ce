"""A sealed object is read as it was sealed or not at all: changed, cut, reordered, mixed, or with another key."""

import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tilth.contract.errors import SealBroken
from tilth.contract.messages import Grant
from tilth.contract.sealing import CHUNK, MAGIC, SALT, TAG, Sealer, derived, seal, unsealed

KEY = os.urandom(32)
HEADER = len(MAGIC) + SALT


def opened(sealed: bytes, key: bytes = KEY) -> bytes:
    return b"".join(unsealed(io.BytesIO(sealed), key))


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7])
def test_every_size_comes_back(size: int) -> None:
    plain = os.urandom(size)
    sealed = seal(plain, KEY)
    assert opened(sealed) == plain
    assert len(sealed) == HEADER + size + TAG * max(1, -(-size // CHUNK))


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_pieces_of_any_size_make_the_same_object(pieces: list[bytes]) -> None:
    sealer = Sealer(KEY)
    sealed = sealer.header + b"".join(map(sealer.update, pieces)) + sealer.finish()
    assert opened(sealed) == b"".join(pieces)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    sealed = bytearray(LONG)
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SealBroken):
        opened(bytes(sealed))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_cut_is_noticed(data: st.DataObject) -> None:
    with pytest.raises(SealBroken):
        opened(LONG[: data.draw(st.integers(0, len(LONG) - 1))])


def test_chunks_that_are_swapped_dropped_repeated_or_of_another_object_are_noticed() -> None:
    head, first, second, last = parts(LONG)
    other = parts(seal(os.urandom(2 * CHUNK + 100), KEY))
    for chunks in (
        (second, first, last),
        (second, last),
        (first, last),
        (first, second),
        (first, first, second, last),
        (first, second, last, last),
        (other[1], second, last),
        (first, second, other[3]),
    ):
        with pytest.raises(SealBroken):
            opened(b"".join((head, *chunks)))


def test_another_key_opens_nothing_and_a_derived_one_tells_nothing_of_its_neighbours() -> None:
    with pytest.raises(SealBroken, match="another key"):
        opened(LONG, os.urandom(32))
    assert len({derived(KEY, "jobs/1"), derived(KEY, "jobs/2"), derived(os.urandom(32), "jobs/1"), KEY}) == 4


def test_the_same_bytes_never_look_the_same() -> None:
    assert seal(b"rows", KEY) != seal(b"rows", KEY)


@pytest.mark.parametrize("plain", [b"", b"text,label", b"tilth-sealed-1\n", b"tilth-sealed-2\n" + bytes(40)])
def test_what_was_never_sealed_is_refused_by_name(plain: bytes) -> None:
    with pytest.raises(SealBroken, match="not encrypted"):
        opened(plain)


def test_a_grant_shows_its_key_to_nobody_and_its_signature_covers_it() -> None:
    key = os.urandom(32).hex()
    grant = Grant(url="file:///x", method="read", key=key, expires_at=1)
    assert key not in repr(grant) + str(grant)
    assert key.encode() in grant.signed_bytes()
    broken = grant.model_dump_json().replace('"read"', '"steal"')
    with pytest.raises(ValueError, match="Input should be") as refused:
        Grant.model_validate_json(broken)
    assert key not in str(refused.value)


def parts(sealed: bytes) -> list[bytes]:
    """Header and chunks."""
    step = CHUNK + TAG
    return [sealed[:HEADER], *(sealed[at : at + step] for at in range(HEADER, len(sealed), step))]


LONG = seal(os.urandom(2 * CHUNK + 100), KEY)
