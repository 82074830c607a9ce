"""Settings common to every environment."""

from tilth.settings.env import KEEPALIVE, database, environment

ENV = environment()

SECRET_KEY = ENV.secret_key
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
CSRF_TRUSTED_ORIGINS = [ENV.public_url]
ROOT_URLCONF = "tilth.urls"
ASGI_APPLICATION = "tilth.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "accounts.User"
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en"
SITE_NAME = "Tilth"

INSTALLED_APPS = [
    "tilth.dashboard",  # first: its templates dress allauth's pages
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "rest_framework",
    "drf_spectacular",
    "django_htmx",
    "procrastinate.contrib.django",
    "tilth.core",
    "tilth.accounts",
    "tilth.tenants",
    "tilth.catalog",
    "tilth.datasets",
    "tilth.usage",
    "tilth.billing",
    "tilth.training",
    "tilth.registry",
    "tilth.serving",
    "tilth.batches",
    "tilth.leaving",
]

MIDDLEWARE = [
    "tilth.core.http.RequestId",
    "tilth.core.readable.StorableText",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "tilth.core.http.InfrastructureFaults",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# default: the app's role under row-level security; system: named reads across tenants; owner: migrations only.
POOL = {"pool": {"min_size": 0, "max_size": 16, "timeout": 5, "max_idle": 60}, "connect_timeout": 5, **KEEPALIVE}
DATABASES = {
    "default": {**database(ENV.database_url), "OPTIONS": POOL},
    "system": {**database(ENV.database_url_system), "OPTIONS": POOL},
}
if ENV.database_url_owner:
    DATABASES["owner"] = database(ENV.database_url_owner)
DATABASE_ROUTERS = ["tilth.core.rls.OwnerMigrates"]

AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "none"
LOGIN_REDIRECT_URL = "/"
LOGIN_URL = "/accounts/login/"
EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["tilth.tenants.authentication.KeyOrSession"],
    "DEFAULT_PERMISSION_CLASSES": ["tilth.tenants.authentication.Scoped"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["tilth.core.bodies.JsonBody"],
    "DEFAULT_SCHEMA_CLASS": "tilth.core.openapi.Schema",
    "EXCEPTION_HANDLER": "tilth.core.http.render_error",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {"TITLE": "Tilth", "VERSION": "1", "COMPONENT_SPLIT_PATCH": False}

STATIC_URL = "/static/"
STATIC_ROOT = ENV.var / "static"
WHITENOISE_USE_FINDERS = True
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024  # bytes; files go through the gateway, never through Django
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"()": "tilth.core.redaction.Redacting", "format": "%(asctime)s %(levelname)s %(name)s %(message)s"}
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "uvicorn": {"handlers": ["stderr"], "propagate": False},
        "uvicorn.access": {"handlers": ["stderr"], "propagate": False},
    },
}
