"""The data plane's door: a signed, short-lived token of the control plane, checked before a body is read."""

import time
from collections.abc import Sequence

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from inference.faults import Faulty, fault

AUDIENCE = "tilth-data-plane"
LONGEST_S = 120
REMEMBERED = 64
"""Tokens that have opened the door; a process of the control plane has a new one every half minute."""


class Door:
    """Checks a token's signature once (a sixth of the ingress' time went into that), and its end every time."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self._ends: dict[str, int] = {}

    def refusal(self, authorization: Sequence[str]) -> Faulty | None:
        """None if the one header of that name opens the door, else a 401 that says no more than it must."""
        scheme, _, token = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
        if scheme.lower() != "bearer" or not token:
            return fault(401, "no_token", "send the control plane's token as Authorization: Bearer")
        if self._ends.get(token, 0) > time.time():
            return None
        try:
            claims = jwt.decode(
                token, self._key, algorithms=["EdDSA"], audience=AUDIENCE, options={"require": ["exp", "iat", "aud"]}
            )
        except (jwt.InvalidTokenError, RecursionError, ValueError) as error:  # a deep or endless header is read, too
            return fault(401, "bad_token", f"the token is refused: {type(error).__name__}")
        if int(claims["exp"]) - int(claims["iat"]) > LONGEST_S:
            return fault(401, "bad_token", "the token lives too long")
        self._remember(token, int(claims["exp"]))
        return None

    def _remember(self, token: str, end: int) -> None:
        self._ends[token] = end
        if len(self._ends) > REMEMBERED:
            del self._ends[next(iter(self._ends))]
