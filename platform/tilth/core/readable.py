"""Requests whose address, query or form holds text that cannot be kept, or is in no charset of ours, end here."""

from collections.abc import Callable, Iterator

from django.http import HttpRequest, HttpResponse

from tilth.core.errors import Invalid
from tilth.core.http import answered, is_api
from tilth.core.text import refuse_unstorable

FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
UTF8 = frozenset({"utf-8", "utf8"})

Handler = Callable[[HttpRequest], HttpResponse]


class StorableText:
    """Middleware: an address, query or form with text that cannot be kept is a 400, whatever view it was for."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        try:
            _refuse_charset(request)
            for where, text in _texts(request):
                refuse_unstorable(text, where)
        except Invalid as error:
            return answered(error)
        return self.get_response(request)


def _refuse_charset(request: HttpRequest) -> None:
    """Django would decode the address and the form by any codec of Python's that a caller names, base64 too."""
    charset = (request.content_params or {}).get("charset", "utf-8")
    if charset.strip("\"'").lower() not in UTF8:
        raise Invalid("Send the request in UTF-8; its Content-Type names another charset.", code="bad_charset")


def _texts(request: HttpRequest) -> Iterator[tuple[str, str]]:
    yield "the address", request.path
    sent = [request.GET]
    if request.content_type in FORMS and not is_api(request.path):
        sent.append(request.POST)
    for fields in sent:
        for name, values in fields.lists():
            yield "a field's name", name
            yield from ((name, value) for value in values)
