"""What must hold in the database, in storage and among the processes, whatever has died."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psutil
import psycopg
from tilth.contract.digest import MANIFEST, folder_digest
from tilth.contract.sealing import unsealed
from tilth.core.keystore import KeyStore, group_key

from tests.campaign.customers import Book
from tests.product import Product

SETTLE_S = 60.0
"""Within which everything used is folded and all given back, once nobody asks for anything."""
ORPHAN_S = 5.0
"""A process that nobody owns for longer is an orphan."""
NOTHING: dict[str, LiteralString] = {
    "postings whose lines do not sum to zero":
        "SELECT posting FROM usage_ledgerentry GROUP BY posting HAVING sum(amount_micro_usd) <> 0",
    "tallies that are not the sum of the events":
        """SELECT tenant_id, price_id FROM usage_tally GROUP BY 1, 2 HAVING sum(quantity) <>
             (SELECT coalesce(sum(quantity), 0) FROM usage_usageevent e
               WHERE e.tenant_id = usage_tally.tenant_id AND e.price_id = usage_tally.price_id)""",
    "usage without a tally":
        """SELECT id FROM usage_usageevent e WHERE quantity > 0 AND NOT EXISTS
             (SELECT FROM usage_tally t WHERE t.tenant_id = e.tenant_id AND t.price_id = e.price_id)""",
    "spans that share a slot of a device at one time":
        """SELECT a.job, b.job FROM usage_devicespan a JOIN usage_devicespan b
               ON a.device = b.device AND a.id < b.id AND a.share_from < b.share_to AND b.share_from < a.share_to
              AND tstzrange(a.opened_at, a.ends_at) && tstzrange(b.opened_at, b.ends_at)""",
    "spans longer than they lasted":
        """SELECT job, attempt FROM usage_devicespan
            WHERE device_ms > extract(epoch FROM ends_at - opened_at) * 1000 + 1""",
    "spans that end after now": "SELECT job FROM usage_devicespan WHERE ends_at > now() + interval '1 second'",
    "two attempts of one job at one time":
        """SELECT a.job FROM usage_devicespan a JOIN usage_devicespan b ON a.job = b.job AND a.attempt < b.attempt
              AND tstzrange(a.opened_at, a.ends_at) && tstzrange(b.opened_at, b.ends_at)""",
    "closed spans that were not billed, or not for what they lasted":
        """SELECT job, attempt FROM usage_devicespan s WHERE closed_at IS NOT NULL AND NOT EXISTS
             (SELECT FROM usage_usageevent e WHERE e.tenant_id = s.tenant_id AND e.source = 'training'
                 AND e.event_id = s.job || ':' || s.attempt AND e.quantity <= s.device_ms)""",
    "events out of order":
        """SELECT job_id FROM training_event GROUP BY job_id
           HAVING count(*) <> max(number) OR min(number) <> 1""",
    "jobs that succeeded without a model, or more than one":
        """SELECT id FROM training_job j WHERE state = 'succeeded' AND 1 <>
             (SELECT count(*) FROM registry_model m WHERE m.job_id = j.id)""",
    "models of jobs that did not succeed":
        "SELECT m.id FROM registry_model m JOIN training_job j ON j.id = m.job_id WHERE j.state <> 'succeeded'",
}  # fmt: skip
"""What is wrong → a query that finds it."""
UNDER_WAY: dict[str, LiteralString] = {
    "usage not folded": "SELECT id FROM usage_pendingfold",
    "holds of ended jobs":
        """SELECT h.id FROM usage_hold h JOIN training_job j ON h.purpose = 'job:' || replace(j.id::text, '-', '')
            WHERE j.state IN ('succeeded', 'failed', 'cancelled')""",
    "open spans": "SELECT job FROM usage_devicespan WHERE closed_at IS NULL",
    "jobs without an end": "SELECT id FROM training_job WHERE state NOT IN ('succeeded', 'failed', 'cancelled')",
}  # fmt: skip
"""Empty soon after everybody rests."""


def faults(product: Product, book: Book) -> list[str]:
    """Everything that is wrong, in words; empty is what it must be. Nothing may be under way."""
    found = list(book.faults)
    with psycopg.connect(product.sums_url(), autocommit=True) as db:
        found += _left_under_way(db)
        for what, query in NOTHING.items():
            if rows := db.execute(query).fetchall():
                found.append(f"{what}: {rows[:3]}")
        found += _told_and_stored(db, book)
        found += _half_written(db, Objects(product))
    return found + _orphans(product)


def _left_under_way(db: psycopg.Connection) -> list[str]:
    end = time.monotonic() + SETTLE_S
    while True:
        left = {what: rows for what, query in UNDER_WAY.items() if (rows := db.execute(query).fetchall())}
        if not left or time.monotonic() > end:
            return [f"{what} after {SETTLE_S:.0f} s of rest: {rows[:3]}" for what, rows in left.items()]
        time.sleep(0.2)


def _told_and_stored(db: psycopg.Connection, book: Book) -> list[str]:
    """Usage: all that was told is stored with the same quantity, and no more than what had no reply besides."""
    events = "SELECT event_id, quantity FROM usage_usageevent WHERE source = 'gateway' AND tenant_id = ANY(%s)"
    stored = dict[str, int](db.execute(events, [book.organisations]))
    lost = [told for told in book.answered if told not in stored]
    wrong = [told for told, tokens in book.answered.items() if stored.get(told, tokens) != tokens]
    extra = [event for event in stored if event not in book.answered]
    found = []
    if lost:
        found.append(f"{len(lost)} answers without a usage event: {lost[:3]}")
    if wrong:
        found.append(f"{len(wrong)} answers billed otherwise than told: {wrong[:3]}")
    if len(extra) > book.unanswered:
        found.append(f"{len(extra)} events nobody was told of, {book.unanswered} requests without a reply: {extra[:3]}")
    jobs = dict[str, str](db.execute("SELECT replace(id::text, '-', ''), state FROM training_job"))
    found += [f"job {job} {told}, stored {jobs.get(job)}" for job, told in book.jobs.items() if jobs.get(job) != told]
    files = dict[str, str](db.execute("SELECT replace(id::text, '-', ''), sha256 FROM datasets_file"))
    found += [f"file {file} is stored otherwise" for file, told in book.files.items() if files.get(file) != told]
    return found


class Objects:
    """What lies in a product's storage, opened with its tenants' keys."""

    def __init__(self, product: Product) -> None:
        self._root = Path(urlsplit(product.state["TILTH_ARTIFACTS"]).path)
        self._keys = KeyStore(product.var / "keys" / "tenants")

    def read(self, path: str) -> bytes:
        with (self._root / path).open("rb") as file:
            return b"".join(unsealed(file, group_key(self._keys, path)))

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.read(path)).hexdigest() if (self._root / path).exists() else "missing"


def _half_written(db: psycopg.Connection, objects: Objects) -> list[str]:
    """Whatever the database believes in has exactly the bytes that it believes."""
    found = []
    for table, living in (("datasets_file", "deleted_at IS NULL"), ("datasets_datasetversion", "path <> ''")):
        for path, told in db.execute(f"SELECT path, sha256 FROM {table} WHERE {living}"):
            if objects.sha256(path) != told:
                found.append(f"{path} is not what {table} says")
    for path, told in db.execute("SELECT path, digest FROM registry_model WHERE deleted_at IS NULL"):
        manifest: dict[str, Any] = json.loads(objects.read(path + MANIFEST))
        if folder_digest({name: objects.sha256(path + name) for name in manifest["files"]}) != told:
            found.append(f"the model in {path} is not {told}")
    return found


def _orphans(product: Product) -> list[str]:
    """Processes that work for this folder and that the supervisor would not end; what only begins or ends is none."""
    end = time.monotonic() + ORPHAN_S
    while (left := _outside(product)) and time.monotonic() < end:
        time.sleep(0.2)
    return [f"orphan {pid}: {line[:80]}" for pid, line in left.items()]


def _outside(product: Product) -> dict[int, str]:
    found = product.processes()
    ours = {child.pid for child in psutil.Process(product.process.pid).children(recursive=True)}
    return {pid: line for pid, line in found.items() if pid not in ours}
