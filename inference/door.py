"""The data plane's door: a signed, short-lived token of the control plane, checked before a body is read."""

from collections.abc import Sequence

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from inference.faults import Faulty, fault

AUDIENCE = "tilth-data-plane"
LONGEST_S = 120


def refusal(key: Ed25519PublicKey, authorization: Sequence[str]) -> Faulty | None:
    """None if the one header of that name opens the door, else a 401 that says no more than it must."""
    scheme, _, token = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token:
        return fault(401, "no_token", "send the control plane's token as Authorization: Bearer")
    try:
        claims = jwt.decode(
            token, key, algorithms=["EdDSA"], audience=AUDIENCE, options={"require": ["exp", "iat", "aud"]}
        )
    except (jwt.InvalidTokenError, RecursionError, ValueError) as error:  # a deep or endless header is read, too
        return fault(401, "bad_token", f"the token is refused: {type(error).__name__}")
    if int(claims["exp"]) - int(claims["iat"]) > LONGEST_S:
        return fault(401, "bad_token", "the token lives too long")
    return None
