"""Objects appear whole or not at all, on files and on any other fsspec storage."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest

from tilth.core import storage  # isort: skip


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    from django.conf import settings

    root = f"file://{tmp_path}" if request.param == "file" else f"memory://{uuid4().hex}"
    monkeypatch.setattr(settings, "ENV", replace(settings.ENV, artifacts=root, var=tmp_path / "var"))
    return root


def test_an_object_comes_back_with_its_size_and_hash(root: str) -> None:
    stored = storage.put_stream("tenants/a/x", [b"some ", b"bytes"])
    assert (stored.size, stored.sha256) == (10, sha256(b"some bytes").hexdigest())
    assert b"".join(storage.read_chunks("tenants/a/x")) == b"some bytes"
    with storage.local_copy("tenants/a/x") as path:
        assert path.read_bytes() == b"some bytes"
    assert storage.names("tenants") == ["a"]


def test_a_stream_that_breaks_off_leaves_nothing(root: str) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        storage.put_stream("tenants/a/x", broken())
    assert not storage.exists("tenants/a/x")
    assert storage.names("tenants/a") == []


def test_a_prefix_is_removed_with_all_below_it_and_twice_is_no_error(root: str) -> None:
    storage.put_stream("tenants/a/x/y", [b"1"])
    storage.put_stream("tenants/b/x", [b"2"])
    for _ in range(2):
        storage.delete_prefix("tenants/a")
    assert storage.names("tenants") == ["b"]


@pytest.mark.parametrize("path", ["", "/", "a//b", "../etc/passwd", "a/../../b", "a/./b"])
def test_a_path_that_leads_out_is_refused(root: str, path: str) -> None:
    with pytest.raises(ValueError, match="no path below TILTH_ARTIFACTS"):
        storage.exists(path)
    with pytest.raises(ValueError, match="no path below TILTH_ARTIFACTS"):
        storage.delete_prefix(path)
