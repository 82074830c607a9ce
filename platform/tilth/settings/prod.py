"""Settings behind TLS: secure cookies, HSTS, the public host only."""

from urllib.parse import urlsplit

from tilth.settings.base import *  # noqa: F403
from tilth.settings.base import ENV

ALLOWED_HOSTS = [urlsplit(ENV.public_url).hostname or "localhost"]
SECURE_SSL_REDIRECT = True
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_HSTS_SECONDS = 31_536_000
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
