"""What can go wrong with a row: its one line in the results becomes none, another one, or several."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..wire import dump_line, error_body
from .fault import Fault

_LONG_LINE_BYTES = 20_000_000


@dataclass(frozen=True)
class Line:
    """A line of a result file.

    Attributes:
        content: With its end.
        failed: Whether it goes to the error file.
    """

    content: bytes
    failed: bool

    def read(self) -> dict[str, Any]:
        return json.loads(self.content)


RowFault = Callable[[Fault, Line], list[Line]]


def _missing(fault: Fault, line: Line) -> list[Line]:
    """It has no line in any file."""
    return []


def _duplicated(fault: Fault, line: Line) -> list[Line]:
    """Its line comes twice."""
    return [line, line]


def _contradicted(fault: Fault, line: Line) -> list[Line]:
    """Before its answer, an error comes for the same custom_id."""
    return [_failing(line, 500, failed=False), line]


def _unknown_id(fault: Fault, line: Line) -> list[Line]:
    """Beside its line comes another one whose custom_id nobody sent."""
    return [_changed(line, custom_id="somebody-elses-row"), line]


def _renamed(fault: Fault, line: Line) -> list[Line]:
    """Its answer comes under a custom_id that nobody sent."""
    return [_changed(line, custom_id="somebody-elses-row")]


def _error_row(fault: Fault, line: Line) -> list[Line]:
    """It fails with status 500 (or `status`), in the error file."""
    return [_failing(line, fault.status or 500, failed=True)]


def _error_in_output(fault: Fault, line: Line) -> list[Line]:
    """It fails with status 500 (or `status`), in the output file."""
    return [_failing(line, fault.status or 500, failed=False)]


def _answer_in_errors(fault: Fault, line: Line) -> list[Line]:
    """Its answer comes in the error file."""
    return [Line(line.content, failed=True)]


def _expired(fault: Fault, line: Line) -> list[Line]:
    """It is listed as expired, though its batch isn't."""
    error = {"code": "batch_expired", "message": "This request could not be executed in time."}
    return [Line(_changed(line, response=None, error=error).content, failed=True)]


def _status_0(fault: Fault, line: Line) -> list[Line]:
    """Its status_code is 0 and its body is empty."""
    return [Line(_response(line, status_code=0, body={}).content, failed=True)]


def _no_response(fault: Fault, line: Line) -> list[Line]:
    """It has neither a response nor an error."""
    return [_changed(line, response=None, error=None)]


def _empty_body(fault: Fault, line: Line) -> list[Line]:
    """Its body is an empty object."""
    return [_response(line, body={})]


def _body_not_json(fault: Fault, line: Line) -> list[Line]:
    """Its body is a page of HTML instead of an object."""
    return [_response(line, body="<html><body>Bad Gateway</body></html>")]


def _broken_line(fault: Fault, line: Line) -> list[Line]:
    """Its line breaks off in the middle."""
    return [Line(line.content[: len(line.content) // 2] + b"\n", line.failed)]


def _no_choices(fault: Fault, line: Line) -> list[Line]:
    """The list of its choices (or vectors) is empty."""
    return [_body(line, choices=[], data=[])]


def _several_choices(fault: Fault, line: Line) -> list[Line]:
    """After its answer, a second choice with another one follows."""
    second = {"index": 1, "message": {"role": "assistant", "content": "another answer"}, "finish_reason": "stop"}
    return [_body(line, choices=[*_choices(line), second])]


def _refusal(fault: Fault, line: Line) -> list[Line]:
    """The model refuses."""
    return [_message(line, content=None, refusal="I can't help with that.")]


def _content_filter(fault: Fault, line: Line) -> list[Line]:
    """It is stopped by a content filter."""
    return [_choice(_message(line, content=""), finish_reason="content_filter")]


def _truncated(fault: Fault, line: Line) -> list[Line]:
    """Its answer is cut off at the output limit, with finish_reason length."""
    return [_choice(_message(line, content=_content(line)[:3]), finish_reason="length")]


def _empty_answer(fault: Fault, line: Line) -> list[Line]:
    """Its answer is null."""
    return [_message(line, content=None)]


def _wrong_shape(fault: Fault, line: Line) -> list[Line]:
    """Its answer is a sentence, whatever was asked for."""
    return [_message(line, content="Sure! Here is what you asked for.")]


def _no_usage(fault: Fault, line: Line) -> list[Line]:
    """Its usage is null."""
    return [_body(line, usage=None)]


def _odd_usage(fault: Fault, line: Line) -> list[Line]:
    """Its token counts are negative, a text and not there."""
    return [_body(line, usage={"prompt_tokens": -5, "completion_tokens": "many"})]


def _invalid_utf8(fault: Fault, line: Line) -> list[Line]:
    """There is a byte in its line that is no UTF-8."""
    return [Line(line.content.replace(b'"custom_id"', b'"note":"\xff","custom_id"', 1), line.failed)]


def _nul_bytes(fault: Fault, line: Line) -> list[Line]:
    """There is a NUL byte in its line."""
    return [Line(line.content.replace(b'"custom_id"', b'"note":"\x00","custom_id"', 1), line.failed)]


def _nul_in_answer(fault: Fault, line: Line) -> list[Line]:
    """Its answer has an escaped NUL in it."""
    return [_message(line, content="a\x00b")]


def _lone_surrogate(fault: Fault, line: Line) -> list[Line]:
    """Its answer has half of a surrogate pair in it."""
    return [_message(line, content="a\ud800b")]


def _long_line(fault: Fault, line: Line) -> list[Line]:
    """Its line is 20 MB longer than it has to be."""
    return [_changed(line, note="x" * _LONG_LINE_BYTES)]


def _changed(line: Line, **fields: object) -> Line:
    return Line(dump_line({**line.read(), **fields}), line.failed)


def _response(line: Line, **fields: object) -> Line:
    return _changed(line, response={**line.read()["response"], **fields})


def _body(line: Line, **fields: object) -> Line:
    body = line.read()["response"]["body"]
    # An embedding has no choices, and a completion has no data.
    known = {name: value for name, value in fields.items() if name in body}
    return _response(line, body={**body, **known})


def _choices(line: Line) -> list[dict[str, Any]]:
    return line.read()["response"]["body"].get("choices", [])


def _choice(line: Line, **fields: object) -> Line:
    return _body(line, choices=[{**choice, **fields} for choice in _choices(line)])


def _message(line: Line, **fields: object) -> Line:
    return _body(line, choices=[{**one, "message": {**one["message"], **fields}} for one in _choices(line)])


def _content(line: Line) -> str:
    return str(_choices(line)[0]["message"]["content"]) if _choices(line) else ""


def _failing(line: Line, status: int, *, failed: bool) -> Line:
    body = error_body("The emulated provider failed on this request.", status=status, code="emulated_error")
    return Line(_response(line, status_code=status, body=body).content, failed)


def _named(*faults: RowFault) -> Mapping[str, RowFault]:
    return {getattr(fault, "__name__", "").removeprefix("_"): fault for fault in faults}


ROW_FAULTS: Mapping[str, RowFault] = _named(
    *(_missing, _duplicated, _contradicted, _unknown_id, _renamed, _error_row, _error_in_output, _answer_in_errors),
    *(_expired, _status_0, _no_response, _empty_body, _body_not_json, _broken_line, _no_choices, _several_choices),
    *(_refusal, _content_filter, _truncated, _empty_answer, _wrong_shape, _no_usage, _odd_usage, _invalid_utf8),
    *(_nul_bytes, _nul_in_answer, _lone_surrogate, _long_line),
)
"""Name → what it does."""
