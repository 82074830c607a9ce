"""A tenant's key is made once, read by us alone, and once destroyed never comes back."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest
from tilth.core.keystore import KeyDestroyed, KeyStore, group_key, object_group

TENANT = uuid4()


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / "keys" / "tenants")


def test_the_key_is_made_once_however_many_ask_at_once(store: KeyStore, tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(store.key, [TENANT] * 64))
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert [path.name for path in (tmp_path / "keys" / "tenants").iterdir()] == [TENANT.hex]
    assert store.key(uuid4()) != store.key(TENANT)


def test_keys_are_readable_by_us_alone(store: KeyStore, tmp_path: Path) -> None:
    store.key(TENANT)
    folder = tmp_path / "keys" / "tenants"
    assert [path.stat().st_mode & 0o077 for path in (folder, folder / TENANT.hex)] == [0, 0]


def test_a_destroyed_key_leaves_a_tombstone_with_its_hash_and_is_never_made_anew(store: KeyStore) -> None:
    key = store.key(TENANT)
    tombstone = store.destroy(TENANT, "2026-11-24T12:00:00Z")
    assert tombstone.key_sha256 == sha256(key).hexdigest()
    assert store.destroy(TENANT, "later") == tombstone == store.tombstone(TENANT)
    for _ in range(2):
        with pytest.raises(KeyDestroyed):
            store.key(TENANT)
    assert list(store.tenants()) == [TENANT]


def test_a_key_that_was_never_needed_can_be_destroyed_too(store: KeyStore) -> None:
    assert store.tombstone(TENANT) is None
    store.destroy(TENANT, "now")
    with pytest.raises(KeyDestroyed):
        store.key(TENANT)


def test_the_destroyed_keys_bytes_are_overwritten_where_they_lay(store: KeyStore, tmp_path: Path) -> None:
    key = store.key(TENANT)
    kept = tmp_path / "same-blocks"
    kept.hardlink_to(tmp_path / "keys" / "tenants" / TENANT.hex)
    store.destroy(TENANT, "now")
    assert kept.read_bytes() == bytes(64) != key.hex().encode()


def test_a_damaged_key_is_told_by_its_file(store: KeyStore, tmp_path: Path) -> None:
    store.key(TENANT)
    (tmp_path / "keys" / "tenants" / TENANT.hex).write_text("00" * 31)
    with pytest.raises(ValueError, match="holds 31 bytes"):
        store.key(TENANT)


def test_files_datasets_and_jobs_have_keys_of_their_own(store: KeyStore) -> None:
    root = f"tenants/{TENANT.hex}"
    paths = [f"{root}/files/1/raw", f"{root}/files/2/raw", f"{root}/jobs/1/attempts/1/", f"{root}/jobs/2/attempts/1/"]
    assert len({group_key(store, path) for path in paths}) == 4
    assert group_key(store, f"{root}/jobs/1/attempts/2/model/x") == group_key(store, paths[2])


@pytest.mark.parametrize(
    "make", [lambda: "nowhere", lambda: f"tenants/{TENANT.hex}", lambda: f"tenants/{TENANT.hex}/files/"]
)
def test_a_path_in_no_group_has_no_key(make: Callable[[], str]) -> None:
    with pytest.raises(ValueError, match="no path below tenants"):
        object_group(make())
