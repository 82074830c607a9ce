"""Reads of what is on offer: verticals and base models, from the installed plugins."""

from tilth.contract.registry import verticals
from tilth.contract.vertical import BaseModelOffer, Vertical
from tilth.core.errors import Invalid, NotFound


def vertical_list() -> list[Vertical]:
    """Every installed vertical, by name."""
    return list(verticals().values())


def base_model_list() -> list[BaseModelOffer]:
    """Every base model on offer, once, by id."""
    offers = {offer.id: offer for face in vertical_list() for offer in face.base_models}
    return [offers[name] for name in sorted(offers)]


def base_model_get(model: str) -> BaseModelOffer:
    """The offer of that id; raises NotFound naming what is on offer."""
    for offer in base_model_list():
        if offer.id == model:
            return offer
    known = ", ".join(offer.id for offer in base_model_list()) or "none"
    raise NotFound(f"No such base model: {model}; on offer: {known}", param="model", code="model_not_found")


def vertical_for(*, model: str, named: str | None) -> Vertical:
    """The vertical that was named, else the only one that offers the base model; raises Invalid with the choices."""
    base_model_get(model)
    offering = [face for face in vertical_list() if any(offer.id == model for offer in face.base_models)]
    names = ", ".join(face.name for face in offering)
    chosen = [face for face in offering if named in (None, face.name)]
    if not chosen:
        raise Invalid(f"No vertical {named!r} offers {model}; those that do: {names}.", param="vertical")
    if len(chosen) > 1:
        raise Invalid(f"Several verticals offer {model}; say which in `vertical`: {names}.", param="vertical")
    return chosen[0]
