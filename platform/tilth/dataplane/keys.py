"""The control plane's Ed25519 key: it signs each request and each grant; the data plane has the public half only."""

from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


@cache
def signing_key() -> Ed25519PrivateKey:
    """The key of TILTH_SIGNING_KEY, read once; raises ImproperlyConfigured naming the file."""
    path = settings.ENV.signing_key
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise ImproperlyConfigured(
            f"TILTH_SIGNING_KEY names {path}, which does not exist; `make up` makes one"
        ) from None
    except ValueError as cause:
        raise ImproperlyConfigured(f"{path} is no PEM private key: {cause}") from cause
    if not isinstance(key, Ed25519PrivateKey):
        raise ImproperlyConfigured(f"{path} holds a {type(key).__name__}; an Ed25519 private key is needed")
    return key
