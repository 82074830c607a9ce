"""The page of batches: a form that makes one, a list with states, counts and results, a button that cancels."""

from typing import Any

import pytest

from tests.controlplane.batches.rig import MODEL, Rig, lines_of

pytestmark = pytest.mark.usefixtures("read_here")


def made(rig: Rig, tenant: Any, **form: str) -> tuple[int, str]:
    """(how many there are, the page afterwards) after the form was sent."""
    from tilth.batches.selectors import batch_list

    page = tenant.browser.post("/batches", form, follow=True, headers={"Referer": "http://testserver/batches"})
    found, _ = batch_list(tenant=tenant.id)
    return len(found), page.content.decode()


def test_the_form_makes_batches_of_rows_and_of_requests(rig: Rig, lender: Any) -> None:
    from tilth.batches.selectors import batch_list

    rows = f"file-{rig.file(lender, b'amount,branch', filename='rows.csv').hex}"
    page = lender.browser.get("/batches?model=ft:credit").content.decode()
    assert '<option value="ft:credit" selected>' in page
    assert "rows.csv" in page
    assert made(rig, lender, input_file_id=rows, model="ft:credit")[0] == 1
    assert made(rig, lender, input_file_id=rows, model="requests:/v1/embeddings")[0] == 2
    found, _ = batch_list(tenant=lender.id)
    assert [(batch.endpoint, batch.model, batch.rows) for batch in found] == [
        ("/v1/embeddings", "", False), ("/v1/predictions", "ft:credit", True),
    ]  # fmt: skip


@pytest.mark.parametrize("model", ["", "ft:nobodys", "requests:/v1/nothing"])
def test_a_form_that_cannot_be_done_says_why(rig: Rig, served: Any, model: str) -> None:
    file = f"file-{rig.file(served, lines_of(1)).hex}"
    count, page = made(rig, served, input_file_id=file, model=model)
    assert (count, 'class="notice error"' in page) == (0, True)


def test_the_list_shows_counts_and_leads_to_answers_and_errors(rig: Rig, served: Any) -> None:
    rig.plane.answers.refuses = lambda row: "odd" if row["text"] == "message 2" else ""
    row = rig.done(served, lines_of(5))
    page = served.browser.get("/batches").content.decode()
    assert f"/v1/files/file-{row.output_file_id.hex}/content" in page
    assert f"/v1/files/file-{row.error_file_id.hex}/content" in page
    cells = [cell.partition("<")[0] for cell in page.split('<td class="num">')[1:]]
    assert (cells, MODEL in page) == (["5", "4", "1"], True)
    assert "hx-trigger" not in page.partition('id="batches"')[2].partition(">")[0], "nothing is under way"


def test_a_batch_under_way_is_watched_and_cancelled_from_the_page(rig: Rig, served: Any) -> None:
    batch = rig.begun(served, lines_of(5))
    table = served.browser.get("/batches", headers={"HX-Request": "true"}).content.decode()
    assert table.startswith('<div class="scroll" id="batches" hx-get="/batches"')
    served.browser.post(f"/batches/batch-{batch.hex}/cancel")
    assert rig.batch(served, batch).state == "cancelling"


def test_a_failed_batch_says_on_the_page_which_line_was_wrong(rig: Rig, served: Any) -> None:
    rig.begun(served, lines_of(1) + lines_of(1))
    page = served.browser.get("/batches").content.decode()
    assert "Line 2: The custom_id &#x27;request-0&#x27; stands in line 1 already" in page


def test_a_viewer_sees_batches_and_makes_none(rig: Rig, served: Any) -> None:
    rig.begun(served, lines_of(1))
    rig.db.execute("UPDATE tenants_membership SET role = 'viewer' WHERE tenant_id = %s", [served.id])
    file = f"file-{rig.file(served, lines_of(1)).hex}"
    count, page = made(rig, served, input_file_id=file, model=MODEL)
    assert (count, "it needs the scope" in page) == (1, True)
