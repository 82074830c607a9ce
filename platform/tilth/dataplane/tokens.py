"""Short-lived tokens (JWT, EdDSA) that open the data plane's door; made here, checked there before a body is read."""

import threading
import time
from collections.abc import Callable

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

AUDIENCE = "tilth-data-plane"
LIFE_S = 60
RENEW_S = 30
"""A token is replaced when it has less than this left."""


class Tokens:
    """Hands out a bearer token that has at least RENEW_S seconds to live; safe to call from many threads."""

    def __init__(self, key: Ed25519PrivateKey, now: Callable[[], float] = time.time) -> None:
        self._key = key
        self._now = now
        self._lock = threading.Lock()
        self._token = ""
        self._expires = 0.0

    def bearer(self) -> str:
        """The text after ``Authorization: Bearer``."""
        with self._lock:
            moment = self._now()
            if self._expires - moment < RENEW_S:
                self._expires = moment + LIFE_S
                claims = {"aud": AUDIENCE, "iat": int(moment), "exp": int(self._expires)}
                self._token = jwt.encode(claims, self._key, algorithm="EdDSA")
            return self._token
