"""The data plane that this installation is set up with, and the grants it honours."""

from functools import cache

from django.conf import settings

from tilth.dataplane.grants import Grants
from tilth.dataplane.http import HttpDataPlane
from tilth.dataplane.keys import signing_key
from tilth.dataplane.port import DataPlane
from tilth.dataplane.tokens import Tokens


@cache
def data_plane() -> DataPlane:
    """The one at TILTH_DATAPLANE_URL."""
    return HttpDataPlane(settings.ENV.dataplane_url, Tokens(signing_key()).bearer)


@cache
def grants() -> Grants:
    """Signer of grants below TILTH_ARTIFACTS."""
    return Grants(signing_key(), settings.ENV.artifacts)
