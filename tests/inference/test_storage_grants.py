"""Nothing in storage is touched without a grant of the control plane."""

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tilth.contract.errors import GrantRefused
from tilth.contract.messages import REVOKED
from tilth.contract.vertical import BaseModelOffer

from inference.engine.base_models import load_base
from inference.engine.errors import JobFault
from inference.storage import Storage


def test_what_was_written_is_read_and_listed(place: Any) -> None:
    place.storage.write(place.grant("job/", "write"), "events/0000000001.json", b"[]")
    assert place.storage.read(place.grant("job/"), "events/0000000001.json") == b"[]"
    assert place.storage.names(place.grant("job/")) == ["events/0000000001.json"]
    assert place.storage.names(place.grant("nothing/")) == []


def test_nothing_is_written_below_a_revoked_prefix(place: Any) -> None:
    grant = place.grant("job/attempts/1/", "write")
    place.storage.write(grant, "events/1.json", b"[]")
    place.storage.write(grant, REVOKED, b"")
    for name in ("events/2.json", "a/b/c", REVOKED):
        with pytest.raises(GrantRefused, match="was revoked"):
            place.storage.write(grant, name, b"late")
    place.storage.write(place.grant("job/attempts/2/", "write"), "events/1.json", b"[]")
    assert place.storage.names(place.grant("job/attempts/1/")) == [REVOKED, "events/1.json"]


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "a/../../b"])
def test_a_grant_does_not_lead_out_of_its_prefix(place: Any, name: str) -> None:
    with pytest.raises(GrantRefused, match="leads out"):
        place.storage.read(place.grant("job/"), name)


def test_forged_expired_and_misused_grants_are_refused(place: Any) -> None:
    good = place.grant("job/", "write")
    with pytest.raises(GrantRefused, match="not signed"):
        place.storage.write(good.model_copy(update={"url": good.url + "x/"}), "a", b"")
    with pytest.raises(GrantRefused, match="not signed"):
        Storage(Ed25519PrivateKey.generate().public_key()).write(good, "a", b"")
    with pytest.raises(GrantRefused, match="expired"):
        place.storage.read(place.grant("job/", life_s=-1), "a")
    with pytest.raises(GrantRefused, match="not to read"):
        place.storage.read(good, "a")


def test_an_object_with_other_bytes_than_granted_is_refused(place: Any) -> None:
    place.storage.write(place.grant("", "write"), "rows", b"rows")
    with pytest.raises(GrantRefused, match="was changed"):
        place.storage.read(place.grant("rows", sha256="0" * 64))


def test_a_base_model_that_cannot_be_had_says_what_to_do(tiny_folder: Any) -> None:
    def offer(**changed: Any) -> BaseModelOffer:
        facts = {"id": "x", "title": "X", "source": "local:tiny", "licence": "mit", "memory_mb": 1, **changed}
        return BaseModelOffer(**facts)

    for changed, told in (
        ({"source": "local:missing"}, "no folder 'missing'"),
        ({"source": "wheel:no_such_wheel"}, "install the wheel no-such-wheel"),
        ({"source": "ftp:x"}, "none of wheel:, local:, hub:"),
        ({"licence": "cc-by-nc-4.0"}, "only commercial use"),
        ({"revision": "sha256:" + "0" * 64}, "have sha256"),
    ):
        with pytest.raises(JobFault, match=told):
            load_base(offer(**changed), tiny_folder)
