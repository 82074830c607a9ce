"""Where a stack's files lie: below var; what cannot lie there goes to a folder of ours beside, and says so."""

import hashlib
import os
import pwd
import shutil
from pathlib import Path

LONGEST_SOCKETS = 80
"""Characters of PostgreSQL's socket folder; a socket's path ends at 107."""
LONGEST_RAY = 40
"""Characters of Ray's folder; its sockets lie deep below it."""


class BadPlace(RuntimeError):
    """A folder cannot be used; the message says why and what to do."""


def aside(var: Path, name: str) -> Path:
    """A folder in /var/tmp that belongs to this var and that only we may write; others may enter, not list."""
    mark = hashlib.sha256(str(var.resolve()).encode()).hexdigest()[:8]
    root = Path(f"/var/tmp/tilth-{os.geteuid()}-{mark}")  # noqa: S108 (its owner is checked)
    for folder in (root, root / name):
        folder.mkdir(mode=0o711, exist_ok=True)
        seen = folder.lstat()
        if folder.is_symlink() or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
            raise BadPlace(f"{folder} is not ours alone (somebody else made it); remove it, or set TILTH_VAR elsewhere")
    root.chmod(0o711)
    return root / name


def forget_aside(var: Path) -> None:
    """Removes what lies beside."""
    shutil.rmtree(aside(var, "x").parent)


def restoring(var: Path) -> Path:
    """There while a restore works on the folder, and when it was broken off: then nothing else may."""
    return var / "RESTORING"


def reachable(path: Path, user: pwd.struct_passwd | None) -> bool:
    """Whether that user can walk to the path; we change nobody's folders for it. None is ourselves."""
    if user is None:
        return True
    known = [parent for parent in (path, *path.absolute().parents, *path.resolve().parents) if parent.exists()]
    return all(parent.stat().st_mode & 0o001 for parent in known if parent.is_dir())


def cluster_folder(var: Path, user: pwd.struct_passwd | None) -> Path:
    """PostgreSQL's folder: below var where the server's user gets there."""
    inside = var / "postgres"
    if not reachable(inside, user):
        return _linked(inside, aside(var, "postgres"))
    inside.mkdir(exist_ok=True)
    return inside


def socket_folder(cluster: Path, var: Path) -> Path:
    """Below the cluster where that path is short enough, else in a folder of ours that the server's user enters."""
    inside = cluster / "run"
    return inside if len(str(inside)) <= LONGEST_SOCKETS else aside(var, "run") / "sockets"


def programs_folder(found: Path, var: Path, user: pwd.struct_passwd | None) -> Path:
    """PostgreSQL's ``bin``; copied (40 MB, once) if its user cannot reach the virtual environment."""
    if reachable(found, user):
        return found
    home = found.parent
    copy = aside(var, "programs") / f"{home.name}-{int(home.stat().st_mtime)}"
    if not copy.exists():
        part = copy.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(home, part, symlinks=True)
        part.rename(copy)
    return copy / found.name


def ray_folder(var: Path) -> Path:
    """Ray's folder for its sockets and logs."""
    inside = var / "ray"
    if len(str(inside)) > LONGEST_RAY:
        return _linked(inside, aside(var, "ray"))
    inside.mkdir(exist_ok=True)
    return inside


def _linked(name: Path, target: Path) -> Path:
    """Leaves a link below var, so that whoever looks there finds the files."""
    if not name.is_symlink():
        name.symlink_to(target)
    return target
