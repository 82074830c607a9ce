"""The process that reads customers' files: it limits itself, knows no database and no secret, and may die alone."""

import json
import os
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tilth.contract.vertical import Schema
from tilth.core.errors import Invalid
from tilth.datasets.freeze import Wish, freeze
from tilth.datasets.inspection import inspect
from tilth.datasets.intake import Source
from tilth.datasets.orders import ANSWER, ORDER

Work = Callable[[dict[str, Any], Path], dict[str, Any]]


def main(work: Work) -> None:
    """Does ``work`` on the order in the folder named by the only argument, and writes its report there."""
    folder = Path(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    order = json.loads((folder / ORDER).read_bytes())
    for limit, value in order["limits"].items():
        resource.setrlimit(getattr(resource, limit), (value, value))
    (folder / ANSWER).write_text(json.dumps(_answer(work, order, folder)))


def _answer(work: Work, order: dict[str, Any], folder: Path) -> dict[str, Any]:
    try:
        return {"report": work(order, folder)}
    except Invalid as error:
        return {"invalid": {"message": error.message, "param": error.param, "code": error.reason, **error.extra}}
    except MemoryError:
        return {"died": "memory"}


def _work(order: dict[str, Any], folder: Path) -> dict[str, Any]:
    match order["work"]:
        case "inspect":
            schemas = {name: Schema.model_validate(schema) for name, schema in order["schemas"].items()}
            return inspect(Path(order["path"]), schemas)
        case "freeze":
            sources = [Source(**{**source, "path": Path(source["path"])}) for source in order["sources"]]
            wish = Wish(**{**order["wish"], "schema": Schema.model_validate(order["wish"]["schema"])})
            return freeze(sources, wish, folder, Path(order["out"]) if order["out"] else None)
    raise ValueError(f"no such work: {order['work']!r}")


def _end_with_parent() -> None:
    """The parent holds the other end of the standard input; when it dies there is nobody to work for."""
    os.read(0, 1)  # not sys.stdin: its lock would be held when this process ends
    os._exit(1)


if __name__ == "__main__":
    main(_work)
