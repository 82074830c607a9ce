"""Customers who go on uploading, learning and asking while parts of the product die, and note what they were told."""

import hashlib
import http.client
import io
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import openai
from openai import OpenAI
from tilth.core.ids import parse

from tests.product import Product, eventually

PATIENCE_S = 60.0
"""Of a customer with one request."""
PACE_S = {"answer": 0.05, "read": 0.5, "upload": 1.0, "learn": 0.2}
"""Between two requests of one thread."""
ASKING = 3
"""Threads of a customer that ask for predictions."""
HONEST = (503, 507)
"""With Retry-After: something is away, or a disk is full."""
ENDED = ("succeeded", "failed", "cancelled")
LEARN_S = 240.0
"""Within which a job ends, however often its trainer dies."""
SUBJECTS = {
    "track_order": "where is parcel {n} since it has not come and the depot says nothing",
    "reset_password": "the login refuses my password since update {n}",
    "damaged_item": "plate {n} of the set arrived in pieces",
}


@dataclass
class Book:
    """What all customers were told, to be held against the database."""

    organisations: list[UUID] = field(default_factory=list)
    answered: dict[str, int] = field(default_factory=dict)
    """Request id of an answered prediction (hex) → tokens it was told to have used."""
    unanswered: int = 0
    """Predictions whose reply never came: they may count, once each."""
    files: dict[str, str] = field(default_factory=dict)
    """File id (hex) → sha256 of what was sent."""
    jobs: dict[str, str] = field(default_factory=dict)
    """Job id (hex) → how it ended."""
    refused: Counter[str] = field(default_factory=Counter)
    """Honest refusals: 503 or 507 with Retry-After, or no reply at all."""
    faults: list[str] = field(default_factory=list)
    """What no customer may ever be told."""
    signs: dict[str, float] = field(default_factory=dict)
    """When (monotonic) the newest request that succeeded was sent, by what was asked."""


class Customers:
    """Threads that use the product until ``rest``; ``work`` lets them go on."""

    def __init__(self, product: Product, number: int) -> None:
        self.book = Book()
        self._end = threading.Event()
        self._resting = threading.Event()
        self._idle: list[threading.Event] = []
        self._threads: list[threading.Thread] = []
        self.all = [Customer(product, self.book, name) for name in range(number)]
        for customer in self.all:
            customer.begin()
        for customer in self.all:
            for act in (*[customer.ask] * ASKING, customer.read, customer.upload, customer.learn):
                self._start(act)

    def rest(self) -> None:
        """Returns when nothing is under way: every request has ended, every job too."""
        self._resting.set()
        eventually(lambda: all(idle.is_set() for idle in self._idle), LEARN_S + PATIENCE_S)

    def work(self) -> None:
        """Goes on after a rest."""
        self._resting.clear()
        eventually(lambda: not any(idle.is_set() for idle in self._idle))

    def leave(self) -> None:
        """For ever."""
        self._end.set()
        for thread in self._threads:
            thread.join(LEARN_S + PATIENCE_S)

    def _start(self, act: Callable[[], None]) -> None:
        idle = threading.Event()
        pace = PACE_S[{"ask": "answer"}.get(act.__name__, act.__name__)]

        def go_on() -> None:
            while not self._end.is_set():
                if self._resting.is_set():
                    idle.set()
                else:
                    idle.clear()
                    act()
                self._end.wait(pace)

        self._idle.append(idle)
        self._threads.append(threading.Thread(target=go_on, daemon=True))
        self._threads[-1].start()


class Customer:
    """One organisation with a key, a model of its own, and much to ask."""

    def __init__(self, product: Product, book: Book, number: int) -> None:
        self._book = book
        self._number = number
        self._host = urlsplit(product.url).netloc
        account = product.account()
        self.key = account["key"]
        book.organisations.append(parse("org", account["id"]))
        self._client = OpenAI(base_url=f"{product.url}/v1", api_key=self.key, max_retries=2, timeout=PATIENCE_S)
        self._count = itertools.count()
        self._lock = threading.Lock()
        self.model, self.digest = "", ""

    def begin(self) -> None:
        """The first model, made in peace."""
        self.learn("probe")
        assert self.model, self._book

    def ask(self) -> None:
        """One prediction; the digest must be that of our own model."""
        body = json.dumps({"model": self.model, "inputs": [{"text": f"where is parcel {next(self._count)}"}]})
        with self._judged("answer"):
            status, headers, reply = self._send("POST", "/v1/predictions", body)
            if self._honest("a prediction", status, headers, reply):
                with self._lock:
                    self._book.answered[headers["x-request-id"].removeprefix("req_")] = reply["usage"]["tokens"]
                if reply["digest"] != self.digest:
                    self._book.faults.append(f"asked {self.digest}, {reply['digest']} answered")
                return
        if not status:
            with self._lock:
                self._book.unanswered += 1

    def read(self) -> None:
        """Our models, which are there whatever dies."""
        with self._judged("read"):
            status, headers, reply = self._send("GET", "/v1/models")
            if self._honest("the list of models", status, headers, reply):
                names = [each["id"] for each in reply["data"]]
                if self.model not in names:
                    self._book.faults.append(f"{self.model} is not among {names}")

    def upload(self) -> None:
        """A file that nobody trains on."""
        content = f"text,intent\nrow {self._number}-{next(self._count)},a\nanother,b\n".encode()
        with self._judged("upload"):
            self._file(content)

    def learn(self, highest_rung: str = "lora") -> None:
        """A job, followed to its end, which is a good one."""
        with self._judged("learn"):
            file = self._file(rows(next(self._count)))
            options = {"highest_rung": highest_rung, "epochs": 4, "minimum_gain": 0.0}
            extra = {"vertical": "support_chat", "options": options}
            job = self._client.fine_tuning.jobs.create(model="minilm-l6", training_file=file, extra_body=extra).id
            self._follow(job)

    def _follow(self, job: str) -> None:
        end = time.monotonic() + LEARN_S
        while time.monotonic() < end:
            with self._judged("follow"):
                found = self._client.fine_tuning.jobs.retrieve(job)
                if found.status in ENDED:
                    self._ended(found)
                    return
            time.sleep(PACE_S["learn"])
        self._book.faults.append(f"job {job} has not ended after {LEARN_S:.0f} s")

    def _ended(self, job: Any) -> None:
        self._book.jobs[job.id.removeprefix("ftjob-")] = job.status
        if job.status != "succeeded":
            self._book.faults.append(f"job {job.id} {job.status}: {job.error}")
        elif not self.model:
            self.model = job.fine_tuned_model
            self.digest = self._client.models.retrieve(self.model).model_dump()["digest"]

    def _file(self, content: bytes) -> str:
        file = self._client.files.create(file=("rows.csv", io.BytesIO(content)), purpose="fine-tune").id
        self._book.files[file.removeprefix("file-")] = hashlib.sha256(content).hexdigest()
        return file

    def _send(self, method: str, path: str, body: str | None = None) -> tuple[int, Any, Any]:
        """Status 0 where no reply came."""
        connection = http.client.HTTPConnection(self._host, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {self.key}"})
            reply = connection.getresponse()
            words = reply.read().decode()
            return reply.status, reply.headers, json.loads(words) if reply.status == 200 else words
        except (OSError, http.client.HTTPException):
            return 0, {}, None
        finally:
            connection.close()

    def _honest(self, what: str, status: int, headers: Any, reply: Any) -> bool:
        """Whether it succeeded; notes a refusal that no customer should ever see."""
        if status == 200:
            return True
        if status and (status not in HONEST or "Retry-After" not in headers):
            self._book.faults.append(f"{what}: {status}, {reply}")
        raise Refused(f"{what}: {status or 'no reply'}")

    @contextmanager
    def _judged(self, sign: str) -> Iterator[None]:
        """Notes a success by when it was asked for, and a refusal by what it was."""
        begun = time.monotonic()
        try:
            yield
        except Refused as refused:
            with self._lock:
                self._book.refused[str(refused)] += 1
        except openai.APIConnectionError:
            self._book.refused[f"{sign}: no reply"] += 1
        except openai.APIStatusError as error:
            self._book.refused[f"{sign}: {error.status_code}"] += 1
            if error.status_code not in HONEST or "Retry-After" not in error.response.headers:
                self._book.faults.append(f"{sign}: {error.status_code}, {error.message}")
        else:
            self._book.signs[sign] = max(begun, self._book.signs.get(sign, 0.0))


class Refused(Exception):
    """Honestly, or by silence."""


def rows(number: int) -> bytes:
    """Sixty rows of three intents, new ones for each number."""
    lines = [f"{words.format(n=f'{number}-{n}')},{label}" for n in range(20) for label, words in SUBJECTS.items()]
    return "\n".join(["text,intent", *lines]).encode()
