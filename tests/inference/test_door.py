"""The data plane's door: a token's signature is checked once, its end every time, and no other token profits."""

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference import door
from inference.door import AUDIENCE, Door

KEY = Ed25519PrivateKey.generate()


def token(life_s: float = 60, key: Ed25519PrivateKey = KEY, **claims: Any) -> str:
    now = int(time.time())
    return jwt.encode({"aud": AUDIENCE, "iat": now, "exp": now + life_s, **claims}, key, algorithm="EdDSA")


@pytest.fixture
def opened() -> Door:
    return Door(KEY.public_key())


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tokens whose signature was looked at."""
    found: list[str] = []
    decode = jwt.decode

    def decoded(one: str, *args: Any, **options: Any) -> Any:
        found.append(one)
        return decode(one, *args, **options)

    monkeypatch.setattr(jwt, "decode", decoded)
    return found


def test_a_signature_is_checked_once(opened: Door, checked: list[str]) -> None:
    first, second = token(), token(life_s=61)
    for each in (first, first, second, first, second):
        assert opened.refusal([f"Bearer {each}"]) is None
    assert checked == [first, second]


@pytest.mark.slow
def test_a_remembered_token_ends_when_it_says(opened: Door) -> None:
    soon = token(life_s=1)
    assert opened.refusal([f"Bearer {soon}"]) is None
    time.sleep(1.1)
    refused = opened.refusal([f"Bearer {soon}"])
    assert refused is not None
    assert refused.status == 401


@pytest.mark.parametrize("spoiled", ["", "x", ".."])
def test_no_other_token_profits_from_one_that_is_remembered(opened: Door, spoiled: str) -> None:
    good = token()
    assert opened.refusal([f"Bearer {good}"]) is None
    for bad in (good[:-6] + spoiled, good.replace(".", spoiled, 1), token(key=Ed25519PrivateKey.generate())):
        for _ in range(2):
            assert opened.refusal([f"Bearer {bad}"]) is not None
    assert opened.refusal([f"Bearer {good}", f"Bearer {good}"]) is not None
    assert opened.refusal([f"Basic {good}"]) is not None


def test_what_lives_too_long_is_refused_again_and_again(opened: Door) -> None:
    for _ in range(2):
        refused = opened.refusal([f"Bearer {token(life_s=door.LONGEST_S + 1)}"])
        assert refused is not None
        assert "too long" in refused.body.message


def test_few_tokens_are_remembered(opened: Door, checked: list[str]) -> None:
    many = [token(jti=str(at)) for at in range(door.REMEMBERED + 1)]
    for each in [*many, many[0], many[-1]]:
        assert opened.refusal([f"Bearer {each}"]) is None
    assert checked == [*many, many[0]], "the oldest was forgotten"
