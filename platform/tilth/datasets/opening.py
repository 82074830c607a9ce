"""Tells what kind of table a file is by its first bytes, and says what to send instead of what is none."""

from pathlib import Path

from tilth.core.errors import Invalid
from tilth.datasets.csv_table import CsvTable
from tilth.datasets.jsonl_table import JsonlTable
from tilth.datasets.parquet_table import MAGIC, ParquetTable
from tilth.datasets.reading import BOM, SEND, Table

SNIFFED_BYTES = 1 << 16
FOREIGN = {
    b"PK\x03\x04": f"an Excel workbook or another zip archive; {SEND}",
    b"\xd0\xcf\x11\xe0": f"an old Excel workbook; {SEND}",
    b"\x1f\x8b": f"compressed with gzip; unpack it, then {SEND}",
    b"PARE": "encrypted Parquet; write it without encryption",
    b"%PDF": f"a PDF; {SEND}",
    b"\xff\xfe": "saved as UTF-16; save it as UTF-8",
    b"\xfe\xff": "saved as UTF-16; save it as UTF-8",
}


def open_table(path: Path) -> Table:
    """The table in a file; raises Invalid, naming what the file is instead, or that it has no rows."""
    table = _table(path)
    if next(table.records(), None) is None:
        raise Invalid("The file has a header but no rows; add rows below it.", code="no_rows")
    return table


def _table(path: Path) -> Table:
    with path.open("rb") as file:
        head = file.read(SNIFFED_BYTES)
    for magic, what in FOREIGN.items():
        if head.startswith(magic):
            raise Invalid(f"The file is {what}.", code="unknown_format")
    if head.startswith(MAGIC):
        return ParquetTable(path)
    text = head.removeprefix(BOM).lstrip()
    if not text and len(head) < SNIFFED_BYTES:
        raise Invalid("The file is empty; its first line must name the columns.", code="empty_file")
    if text.startswith(b"["):
        raise Invalid("The file is one JSON list; write one object on each line instead.", code="unknown_format")
    if b"\r" in head and b"\n" not in head:
        raise Invalid("The lines end in CR alone, as on old Macs; save the file with LF or CRLF.", code="line_ends")
    return JsonlTable(path) if text.startswith(b"{") else CsvTable(path)
