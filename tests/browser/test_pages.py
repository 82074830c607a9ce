"""What a customer sees: the pages of the running product in a real Chromium."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.e2e.test_one_datum import small_sample

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--no-sandbox --disable-background-networking --disable-component-update --disable-sync --no-first-run"
LEARNED_MS = 240_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split())
        yield launched
        launched.close()


@pytest.fixture
def visit(stack: Any, browser: Browser) -> Callable[..., Any]:
    """Opens a browser of its own at the start page; afterwards nothing may have been complained about."""

    @contextmanager
    def opened(width: int = 1280) -> Iterator[Page]:
        complaints: list[str] = []

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and "400 (Bad Request)" not in message.text:
                complaints.append(f"{page.url}: {message.text}")

        with browser.new_context(viewport={"width": width, "height": 800}, base_url=stack.url) as context:
            page = context.new_page()
            page.on("console", heard)
            page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
            page.goto("/")
            yield page
        assert complaints == []

    return opened


def sign_in(page: Page, account: dict[str, str], password: str = "") -> None:
    page.get_by_label("Email").fill(account["email"])
    page.get_by_label("Password").fill(password or account["password"])
    page.get_by_role("button", name="Sign In").click()


def menu(page: Page, name: str) -> None:
    page.get_by_role("navigation", name="Main").get_by_role("link", name=name, exact=True).click()


def assert_nothing_is_cut_off(page: Page) -> None:
    """No page scrolls sideways, as a phone would show it."""
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0, page.url


def test_a_customer_goes_from_rows_to_answers_without_leaving_the_pages(
    stack: Any, visit: Callable[..., Any], tmp_path: Path
) -> None:
    account = stack.account()
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(small_sample() + b'\n{"text": "cut off in the mid\n')
    messages = tmp_path / "messages.csv"
    messages.write_text("text\nwhere is my parcel\nI forgot my password\n")
    with visit() as page:
        sign_in(page, account, password="not the password")
        expect(page.get_by_text("not correct")).to_be_visible()
        sign_in(page, account)
        expect(page.get_by_role("heading", name=account["organisation"])).to_be_visible()

        menu(page, "Keys")
        page.get_by_label("A new key").fill("from the page")
        page.get_by_role("button", name="Create key").click()
        secret = page.locator("#secret").inner_text()
        assert [model.id for model in OpenAI(base_url=f"{stack.url}/v1", api_key=secret).models.list()]
        page.reload()
        expect(page.locator("#secret")).to_have_count(0)

        menu(page, "Files")
        page.get_by_label("Labelled rows").set_input_files(rows)
        page.get_by_role("button", name="Upload").click()
        expect(page.get_by_role("status")).to_contain_text("is stored as file-")
        expect(page.locator("#files .state")).to_have_text("processed", timeout=30_000)
        page.locator("#files a").click()
        expect(page.get_by_role("heading", name="1 problem")).to_be_visible()
        page.get_by_role("link", name="Fine-tune on it").click()

        page.get_by_label("Leave bad rows out").check()
        page.get_by_label("Suffix").fill("seen")
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_text("Files validated")).to_be_visible(timeout=60_000)
        expect(page.get_by_text("Step 1/").first).to_be_visible(timeout=LEARNED_MS)
        expect(page.locator("h1 .state")).to_have_text("succeeded", timeout=LEARNED_MS)

        with page.expect_download() as metrics:
            page.get_by_role("link", name="step_metrics.csv").click()
        assert metrics.value.path().read_text().startswith("step,rung,train_loss")
        page.get_by_role("link", name="ft:minilm-l6").click()
        page.get_by_label("A message").fill("where is my parcel, it was due yesterday")
        page.get_by_role("button", name="Ask the model").click()
        expect(page.locator(".told .bar").first).to_be_visible(timeout=30_000)
        expect(page.get_by_role("status")).to_contain_text("track_order")

        page.get_by_role("link", name="Answer a whole file").click()
        page.get_by_label("Rows to be answered").set_input_files(messages)
        page.get_by_role("button", name="Upload").click()
        page.get_by_role("button", name="Start").click()
        expect(page.locator("#batches .state")).to_have_text("completed", timeout=60_000)
        with page.expect_download() as answers:
            page.get_by_role("link", name="answers").click()
        assert [json.loads(line)["line"] for line in answers.value.path().read_text().splitlines()] == [2, 3]

        menu(page, "Usage")
        expect(page.get_by_role("heading", name="Invoice preview")).to_be_visible()
        expect(page.get_by_role("cell", name="ft:minilm-l6", exact=False).first).to_be_visible(timeout=30_000)
        paths = [page.url]
        for name in ("Files", "Jobs", "Models", "Batches", "Keys"):
            menu(page, name)
            paths.append(page.url)
        page.get_by_role("button", name="Sign Out").click()
        page.goto("/jobs")
        expect(page.get_by_label("Password")).to_be_visible()

    with visit(width=390) as phone:
        assert_nothing_is_cut_off(phone)
        sign_in(phone, account)
        for path in ["/", *paths]:
            phone.goto(path)
            assert_nothing_is_cut_off(phone)


def test_another_organisations_pages_do_not_exist(stack: Any, visit: Callable[..., Any]) -> None:
    one, other = stack.account(), stack.account()
    client = OpenAI(base_url=f"{stack.url}/v1", api_key=one["key"])
    file = client.files.create(file=("rows.jsonl", small_sample()), purpose="fine-tune")
    with visit() as page:
        sign_in(page, other)
        expect(page.get_by_role("heading", name=other["organisation"])).to_be_visible()
        found = [page.request.get(f"{stack.url}/files/{name}") for name in (file.id, "file-" + "0" * 32)]
        assert [answer.status for answer in found] == [404, 404]
        assert file.id not in page.request.get(f"{stack.url}/files").text()
