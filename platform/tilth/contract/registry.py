"""Finds the installed verticals by their entry points; a plugin that fails to import stops the start."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from tilth.contract.errors import VerticalError
from tilth.contract.vertical import Vertical

GROUP = "tilth.verticals"


@cache
def verticals() -> dict[str, Vertical]:
    """Every installed vertical by name, sorted; raises VerticalError naming the plugin at fault."""
    found: dict[str, Vertical] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        face = _load(entry)
        if face.name in found:
            raise VerticalError(f"two installed plugins declare the vertical {face.name!r}; uninstall one of them")
        found[face.name] = face
    return found


def vertical(name: str) -> Vertical:
    """The vertical of that name; raises VerticalError naming those there are."""
    try:
        return verticals()[name]
    except KeyError:
        known = ", ".join(verticals()) or "none"
        raise VerticalError(f"no vertical {name!r} is installed; installed: {known}") from None


def _load(entry: EntryPoint) -> Vertical:
    try:
        face = entry.load()
    except Exception as cause:
        raise VerticalError(f"the plugin {entry.value!r} cannot be imported: {cause!r}; fix or uninstall it") from cause
    if not isinstance(face, Vertical):
        raise VerticalError(f"{entry.value!r} is a {type(face).__name__}; a plugin's entry point names a Vertical")
    return face
