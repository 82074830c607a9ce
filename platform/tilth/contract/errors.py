"""Errors that either plane may meet at the border; both planes' own trees build on ContractError."""


class ContractError(Exception):
    """Something crossed the border, or was declared at it, that the contract does not allow."""


class VerticalError(ContractError):
    """A vertical cannot be used as declared: unknown, twice, or not importable."""


class GrantRefused(ContractError):
    """A grant is forged, expired, for another place or method, or its bytes have another sha256."""


class SealBroken(ContractError):
    """A sealed object cannot be opened: changed, cut short, never sealed, or sealed with another key."""
