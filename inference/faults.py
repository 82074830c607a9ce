"""Errors of the data plane as they are answered: a status and the contract's Fault."""

from dataclasses import dataclass

from tilth.contract.messages import Fault


@dataclass(frozen=True)
class Faulty:
    """An answer that is an error."""

    status: int
    body: Fault


def fault(status: int, code: str, message: str) -> Faulty:
    """An error answer."""
    return Faulty(status, Fault(code=code, message=message))
