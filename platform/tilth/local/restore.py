"""``tilth restore``: a product made anew from a backup and its keys, in a place where nothing is; whole or refused."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from fsspec.core import url_to_fs

import tilth
from tilth.core.ids import public
from tilth.core.keystore import KeyStore
from tilth.local.backup import ARTIFACTS, DATABASE
from tilth.local.dump import count_rows, load, organisations, refuse_full_database
from tilth.local.kept import Kept
from tilth.local.keys import make_keys, write_secret
from tilth.local.manifest import BackupRefused, Manifest, read_manifest, verify
from tilth.local.places import restoring
from tilth.local.ports import HOST
from tilth.local.postgres import Postgres
from tilth.local.stack import bring_up_to_date, manage
from tilth.local.surroundings import environment

Told = Callable[[str], object]


def restore(product: Kept, var: Path, source: Path, keys: Path, told: Told) -> Manifest:
    """Raises BackupRefused unless the backup is whole, its schema is known and nothing is here yet.

    While it works, and when it was killed, ``var`` cannot be started.
    """
    manifest = read_manifest(source)
    _refuse_newer(manifest)
    verify(source, manifest)
    told(f"the backup of {manifest.made_at} is whole: {len(manifest.files):,} files")
    refuse_half_restored(var)
    _refuse_full(product, keys)
    restoring(var).touch()
    _keys(product, keys)
    _objects(product, source / ARTIFACTS)
    told("keys and artifacts are in place")
    with _running(product.server):
        _database(product, source / DATABASE, manifest)
        _erase_again(product, var, told)
    restoring(var).unlink()
    return manifest


def refuse_half_restored(var: Path) -> None:
    """Raises BackupRefused where a restore works or was broken off."""
    if restoring(var).exists():
        raise BackupRefused(f"a restore into {var} works, or was broken off; then `tilth clean` and restore again")


def _refuse_newer(manifest: Manifest) -> None:
    """By our own apps' migrations."""
    home = Path(tilth.__file__).parent
    known = {f"{path.parents[1].name}.{path.stem}" for path in home.glob("*/migrations/[0-9]*.py")}
    ours = {name.partition(".")[0] for name in known}
    if newer := [name for name in manifest.migrations if name.partition(".")[0] in ours and name not in known]:
        raise BackupRefused(
            f"the backup's schema is newer, it has {newer[0]}; restore it with the version that made it"
        )


def _keys(product: Kept, keys: Path) -> None:
    KeyStore(product.keystore).take_over(KeyStore(keys / "tenants"))
    for name, path in product.secrets.items():
        if (keys / name).exists() and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_secret(path, (keys / name).read_bytes())


def _is_buried(product: Kept, tenant: UUID) -> bool:
    return KeyStore(product.keystore).tombstone(tenant) is not None


def _objects(product: Kept, source: Path) -> None:
    fs, root = url_to_fs(product.artifacts)
    buried = {tenant.hex for tenant in KeyStore(product.keystore).tenants() if _is_buried(product, tenant)}
    for path in sorted(source.rglob("*")):
        if path.is_file() and not buried.intersection(path.relative_to(source).parts[1:2]):
            target = f"{root}/{path.relative_to(source)}"
            fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            with path.open("rb") as copy, fs.open(target, "wb") as file:
                shutil.copyfileobj(copy, file, 1 << 20)


@contextmanager
def _running(server: Postgres | None) -> Iterator[None]:
    """The embedded server, for the time of the block."""
    if server is not None:
        server.start()
    try:
        yield
    finally:
        if server is not None:
            server.stop()


def _database(product: Kept, dumped: Path, manifest: Manifest) -> None:
    load(product.programs, product.database(), dumped)
    found = count_rows(product.database())
    if wrong := [table for table, rows in manifest.rows.items() if found.get(table) != rows]:
        raise BackupRefused(f"{wrong[0]} has {found.get(wrong[0])} rows, the manifest says {manifest.rows[wrong[0]]}")


def _erase_again(product: Kept, var: Path, told: Told) -> None:
    """Who was erased after the backup was made is in it again: its key is buried, its rows go once more."""
    known = organisations(product.database())
    buried = [tenant for tenant in KeyStore(product.keystore).tenants() if _is_buried(product, tenant)]
    buried = [tenant for tenant in buried if tenant in known]
    if not buried:
        return
    env = environment(os.environ, var, make_keys(var / "keys"), f"http://{HOST}") | product.roles()
    env |= {"TILTH_ARTIFACTS": product.artifacts, "TILTH_KEYSTORE": str(product.keystore)}
    bring_up_to_date(env)
    for tenant in buried:
        manage(env, "tenant_erase", "--organisation", public("org", tenant), "--restored")
        told(f"{public('org', tenant)} was erased after this backup, and is so again")


def _refuse_full(product: Kept, keys: Path) -> None:
    if not (keys / "tenants").is_dir():
        raise BackupRefused(f"{keys} has no tenants' keys; give the folder that `tilth backup --keys` wrote")
    fs, root = url_to_fs(product.artifacts)
    places = {
        product.keystore: product.keystore.exists() and any(product.keystore.iterdir()),
        product.artifacts: fs.exists(root) and bool(fs.find(root)),
    }
    if product.server is not None:
        places[product.server.data] = product.server.data.exists()
    if full := [str(place) for place, taken in places.items() if taken]:
        raise BackupRefused(f"{full[0]} is not empty; restore into another TILTH_VAR, or `tilth clean` this one first")
    if product.server is None:
        refuse_full_database(product.database())
