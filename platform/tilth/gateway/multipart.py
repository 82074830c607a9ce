"""Takes a multipart form apart while it streams in: small fields into memory, the one file onward piece by piece."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from tilth.core.errors import Invalid

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD_BYTES = 4096


@dataclass(frozen=True)
class Layout:
    """What a form holds: the field of its one file, and its small fields."""

    file: str
    fields: tuple[str, ...] = ()
    how: str = ""
    """What to send, in a sentence."""

    def __str__(self) -> str:
        return ", ".join((self.file, *self.fields))


@dataclass
class _Part:
    """What is being read."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    filename: str | None = None
    data: bytearray = field(default_factory=bytearray)


class Form:
    """A form's fields as they arrive; bytes of the file wait in ``pending`` until they are taken."""

    def __init__(self, content_type: bytes, layout: Layout) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise Invalid(f"The body is {kind.decode('latin-1')!r}. {layout.how}", code="not_multipart")
        self._layout = layout
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.whole = False
        """The closing boundary was seen."""
        self._pending: list[bytes] = []
        self._part, self._header, self._value = _Part(), b"", b""
        try:
            self._parser = MultipartParser(options[b"boundary"], self._callbacks(), max_header_size=FIELD_BYTES)
        except FormParserError as error:
            raise self._broken(error) from error

    def feed(self, chunk: bytes) -> bytes:
        """Reads on; returns the bytes of the file in this piece. Raises Invalid for what is no such form."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise self._broken(error) from error
        found, self._pending = b"".join(self._pending), []
        return found

    def _callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._part = _Part()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._part.headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"").decode(errors="replace")
        self._part.name = name
        if name == self._layout.file:
            if self.filename is not None:
                raise Invalid("The form has two files; send one file with each request.", param=name)
            if b"filename" not in options:
                raise Invalid(f"The field {name} has no file name; send it as a file.", param=name)
            self.filename = options[b"filename"].decode(errors="replace")
        elif name not in self._layout.fields or name in self.fields:
            what = "stands twice in" if name in self._layout.fields else "is no field of"
            raise Invalid(f"{name!r} {what} the form; the fields are {self._layout}.", param=name or None)

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.name == self._layout.file:
            self._pending.append(data[start:end])
            return
        self._part.data += data[start:end]
        if len(self._part.data) > FIELD_BYTES:
            raise Invalid(f"The field {self._part.name!r} is over {FIELD_BYTES} bytes.", param=self._part.name)

    def _part_end(self) -> None:
        if self._part.name != self._layout.file:
            self.fields[self._part.name] = self._part.data.decode(errors="replace")

    def _end(self) -> None:
        self.whole = True

    def _broken(self, error: Exception) -> Invalid:
        return Invalid(f"The form cannot be read: {error}. {self._layout.how}", code="bad_multipart")
