"""``python -m tests.part_client URL UPLOAD PATH SIZE FIRST``: sends a file's parts by the SDK, telling each one's id.

A client in a process of its own, so that it can be killed and another go on where it stopped.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import openai
from openai.types import Upload

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
ROW = b"message number %012d of a customer who wants to know where the money is,%s\n"


def main() -> None:
    """Sends the parts from number FIRST on."""
    url, upload, path, size, first = sys.argv[1:]
    with openai.OpenAI(api_key=os.environ["KEY"], base_url=url, max_retries=0) as client, Path(path).open("rb") as file:
        file.seek(int(first) * int(size))
        while piece := file.read(int(size)):
            print(client.uploads.parts.create(upload, data=piece).id, flush=True)


def write_rows(path: Path, mib: int) -> tuple[int, str]:
    """A CSV of that size whose rows all differ: (rows, sha256)."""
    digest, number = sha256(), 0
    with path.open("wb") as file:
        while file.tell() < mib * MIB:
            some = b"".join(ROW % (n, b"red" if n % 2 else b"green") for n in range(number, number + 10_000))
            piece = some if number else b"text,label\n" + some
            number += 10_000
            digest.update(piece)
            file.write(piece)
    return number, digest.hexdigest()


def upload_by_two(sdk: openai.OpenAI, path: Path, part: int, under_way: Callable[[], bool]) -> Upload:
    """Uploads a file by two clients; the first is killed in the middle of a part, which ``under_way`` tells."""
    size = path.stat().st_size
    upload = sdk.uploads.create(bytes=size, filename=path.name, mime_type="text/csv", purpose="fine-tune").id
    with _sending(sdk, upload, path, part, 0) as first:
        assert first.stdout is not None
        ids = [first.stdout.readline().strip() for _ in range(size // part // 2)]
        while not under_way() and first.poll() is None:
            pass
        first.kill()
        ids += first.stdout.read().split()
    with _sending(sdk, upload, path, part, len(ids)) as second:
        assert second.stdout is not None
        ids += second.stdout.read().split()
    return sdk.uploads.complete(upload, part_ids=ids)


@contextlib.contextmanager
def _sending(
    sdk: openai.OpenAI, upload: str, path: Path, part: int, first: int
) -> Iterator["subprocess.Popen[str]"]:  # fmt: skip
    what = [str(sdk.base_url), upload, str(path), str(part), str(first)]
    command = [sys.executable, "-m", "tests.part_client", *what]
    env = os.environ | {"KEY": sdk.api_key}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        yield process


if __name__ == "__main__":
    main()
