"""Objects appear whole or not at all and lie sealed, on files and on any other fsspec storage."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest
from tilth.contract.errors import SealBroken
from tilth.contract.sealing import MAGIC
from tilth.core.keystore import KeyDestroyed, KeyMissing

from tilth.core import storage  # isort: skip

A, B = uuid4(), uuid4()
X = storage.path(A, "files", "1", "raw")


@pytest.fixture(params=["file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    from django.conf import settings

    root = f"file://{tmp_path}" if request.param == "file" else f"memory://{uuid4().hex}"
    env = replace(settings.ENV, artifacts=root, var=tmp_path / "var", keystore=tmp_path / "keys")
    monkeypatch.setattr(settings, "ENV", env)
    return root


def test_an_object_comes_back_with_its_size_and_hash(root: str) -> None:
    stored = storage.put_stream(X, [b"some ", b"bytes"])
    assert (stored.size, stored.sha256) == (10, sha256(b"some bytes").hexdigest())
    assert b"".join(storage.read_chunks(X)) == b"some bytes"
    with storage.local_copy(X) as path:
        assert path.read_bytes() == b"some bytes"
    assert storage.names("tenants") == [A.hex]


def test_a_stream_that_breaks_off_leaves_nothing(root: str) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        storage.put_stream(X, broken())
    assert not storage.exists(X)
    assert storage.names(X.rpartition("/")[0]) == []


def test_a_prefix_is_removed_with_all_below_it_and_twice_is_no_error(root: str) -> None:
    storage.put_stream(X, [b"1"])
    storage.put_stream(storage.path(B, "files", "2", "raw"), [b"2"])
    for _ in range(2):
        storage.delete_prefix(f"tenants/{A.hex}")
    assert storage.names("tenants") == [B.hex]


@pytest.mark.parametrize("path", ["", "/", "a//b", "../etc/passwd", "a/../../b", "a/./b"])
def test_a_path_that_leads_out_is_refused(root: str, path: str) -> None:
    with pytest.raises(ValueError, match="no path below TILTH_ARTIFACTS"):
        storage.exists(path)
    with pytest.raises(ValueError, match="no path below TILTH_ARTIFACTS"):
        storage.delete_prefix(path)


def test_what_lies_in_storage_holds_nothing_of_what_was_given(root: str) -> None:
    storage.put_stream(X, [b"a canary " * 300_000])
    raw = storage._locate(X)[0].cat_file(storage._locate(X)[1])
    assert raw.startswith(MAGIC)
    assert b"canary" not in raw


def test_an_object_moved_to_another_tenant_or_file_or_written_by_others_is_refused(root: str) -> None:
    storage.put_stream(X, [b"rows"])
    storage.object_key(storage.path(B, "files", "1", "raw"))
    fs, full = storage._locate(X)
    for path in (storage.path(B, "files", "1", "raw"), storage.path(A, "files", "2", "raw")):
        fs.makedirs(storage._locate(path)[1].rpartition("/")[0], exist_ok=True)
        fs.copy(full, storage._locate(path)[1])
        with pytest.raises(SealBroken, match="another key"):
            storage.read(path)
    fs.pipe_file(full, b"text,label")
    with pytest.raises(SealBroken, match="not encrypted"):
        storage.read(X)


def test_a_key_store_that_was_lost_is_told_and_never_begun_anew(root: str, tmp_path: Path) -> None:
    storage.put_stream(X, [b"rows"])
    key = (tmp_path / "keys" / A.hex).rename(tmp_path / "elsewhere")
    for use in (lambda: storage.read(X), lambda: storage.put_stream(X, [b"new"])):
        with pytest.raises(KeyMissing, match="is TILTH_KEYSTORE right"):
            use()
    key.rename(tmp_path / "keys" / A.hex)
    assert storage.read(X) == b"rows"


def test_an_erased_tenant_can_neither_be_read_nor_written(root: str) -> None:
    storage.put_stream(X, [b"rows"])
    storage.key_store().destroy(A, "now")
    with pytest.raises(KeyDestroyed):
        storage.read(X)
    with pytest.raises(KeyDestroyed):
        storage.put_stream(X, [b"rows"])


def test_plain_copies_are_ours_alone_and_those_of_dead_processes_are_swept(root: str) -> None:
    from tilth.datasets.sweeping import sweep_scratch

    storage.put_stream(X, [b"rows"])
    dead = storage.scratch() / "4194305-left"
    dead.mkdir()
    with storage.local_copy(X) as path:
        sweep_scratch()
        assert (path.parent.stat().st_mode & 0o077, path.exists(), dead.exists()) == (0, True, False)
    assert list(storage.scratch().iterdir()) == []
