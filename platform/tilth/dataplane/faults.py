"""Reads ``{"error": {"code", "message"}}``, the data plane's form of an error."""

import json

from pydantic import ValidationError

from tilth.contract.messages import Fault


def read_fault(content: bytes, status: int) -> Fault:
    """The fault in a body; a body of another form becomes a fault that quotes its beginning."""
    try:
        return Fault.model_validate(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
        return Fault(code=f"http_{status}", message=content[:200].decode(errors="replace"))
