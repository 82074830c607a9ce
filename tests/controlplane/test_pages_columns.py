"""The form of a new job shows how each free column is read and why, and takes corrections."""

from pathlib import Path
from typing import Any

import pytest

ROWS = "amount,branch,defaulted\n" + "".join(
    f"{n * 37 % 101},{'abc'[n % 3]},{('yes', 'no')[n % 2]}\n" for n in range(60)
)


@pytest.fixture
def checked(tenant: Any, artifacts: Path) -> str:
    """A table that was looked at."""
    from tilth.core.ids import uuid7
    from tilth.core.storage import put_stream
    from tilth.datasets.services import file_check, file_create, file_path

    file = uuid7()
    stored = put_stream(file_path(tenant.id, file), [ROWS.encode()])
    facts: dict[str, Any] = {"filename": "loans.csv", "purpose": "fine-tune", "stored": stored}
    file_create(tenant=tenant.id, by=tenant.principal, file=file, **facts)
    file_check(tenant=tenant.id, file=file)
    return f"file-{file.hex}"


@pytest.mark.slow
def test_columns_are_shown_for_a_vertical_that_reads_them_and_for_no_other(tenant: Any, checked: str) -> None:
    def columns(model: str) -> str:
        page = tenant.browser.get(f"/jobs?training_file={checked}&model={model}").content.decode()
        return str(page.partition('<div id="columns">')[2].partition("</table>")[0])

    table = columns("table-minilm-l6")
    assert '<select name="kind-amount"' in table
    assert "number, as found" in table
    assert "category, as found" in table
    assert "numbers only" in table
    assert "few values that repeat" in table
    assert "kind-defaulted" not in table, "the label is no free column"
    assert "<table>" not in columns("minilm-l6")


def test_a_correction_is_what_the_job_is_made_with_and_the_rest_stays_as_found(tenant: Any, checked: str) -> None:
    from tilth.training.selectors import job_list

    form = {"training_file": checked, "model": "table-minilm-l6", "kind-amount": "category", "kind-branch": ""}
    tenant.browser.post("/jobs", form)
    (view,), _ = job_list(tenant=tenant.id)
    assert (view.job.vertical, view.job.kinds) == ("credit_risk", {"amount": "category"})


@pytest.mark.slow
def test_a_correction_to_no_kind_says_which_there_are(tenant: Any, checked: str) -> None:
    form = {"training_file": checked, "model": "table-minilm-l6", "kind-amount": "colour"}
    page = tenant.browser.post("/jobs", form, follow=True, headers={"Referer": "http://testserver/jobs"})
    assert "There is no kind" in page.content.decode()
