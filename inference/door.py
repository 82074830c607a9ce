"""The data plane's door: a signed, short-lived token of the control plane, checked before a body is read."""

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from inference.faults import Faulty, fault

AUDIENCE = "tilth-data-plane"
LONGEST_S = 120


def refusal(key: Ed25519PublicKey, authorization: str) -> Faulty | None:
    """None if the header opens the door, else a 401 that says no more than it must."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        return fault(401, "no_token", "send the control plane's token as Authorization: Bearer")
    try:
        claims = jwt.decode(
            token, key, algorithms=["EdDSA"], audience=AUDIENCE, options={"require": ["exp", "iat", "aud"]}
        )
    except jwt.InvalidTokenError as error:
        return fault(401, "bad_token", f"the token is refused: {error}")
    if claims["exp"] - claims["iat"] > LONGEST_S:
        return fault(401, "bad_token", "the token lives too long")
    return None
