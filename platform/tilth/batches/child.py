"""The process that reads the input of a batch: as limited as the one that checks files, and as mortal."""

from pathlib import Path
from typing import Any

from tilth.batches.items import Packer
from tilth.batches.requests import Requests
from tilth.batches.states import Endpoint
from tilth.batches.table_rows import Wish, read_rows
from tilth.contract.vertical import Schema
from tilth.datasets.child import main


def work(order: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Reads ``path`` and writes its chunks into the folder ``chunks``."""
    chunks = folder / "chunks"
    chunks.mkdir()
    packer, path = Packer(chunks), Path(order["path"])
    if rows := order["rows"]:
        report = read_rows(path, Wish(**{**rows, "schema": Schema.model_validate(rows["schema"])}), packer)
    else:
        report = Requests(Endpoint(order["endpoint"]), packer).read(path)
    return {**report, "lines": packer.lines, "chunks": packer.chunks}


if __name__ == "__main__":
    main(work)
