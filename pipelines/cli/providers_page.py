"""docs/providers.md, from the providers' profiles: `make docs`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...resources.providers.catalogue import RESOURCES, VARIANTS
from ...resources.providers.profile import Profile
from ...resources.providers.wires.parameters import Parameters
from ...resources.request import LIMITS

_HEAD = """\
# Providers

Made by `make docs` from the profiles in `resources/providers`; don't edit it. An LLM table names the resource that
answers it, `llm="…"`, and runs on each of these by changing that resource. Nobody here has accounts, so nothing was
paid to find any of this out; how sure a row is, is in its last columns:

- *run against the server itself*: tests start that server and ask it;
- *compared with the provider's own package*: it does a whole round trip against an emulator of the provider's protocol,
  so do we, and both send and read the same. The emulator is ours, written after the package's types;
- *unverified*: written after documentation or somebody else's source. Try it with a few rows first.

What is set in `parameters` is checked against the provider's list before anything is paid, and goes where the provider
wants it. An answer's longest length may be called any of {limits};
nothing else is set that a table doesn't set.
"""


def page() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD.format(limits=_code(LIMITS)), *_table(), "", *_details()])


def _table() -> Iterator[str]:
    columns = (
        *("provider", "resource", "answers", "window", "requests"),
        *("file", "discount", "answers follow a schema by", "a lost create is found by"),
        *("certainty", "read"),
    )
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for resource, one in RESOURCES.items():
        about = one.about
        cells = (
            *(about.title, f"`{resource}`", ", ".join(one.endpoints), _window(one), f"{one.max_rows:,}"),
            *(f"{one.max_bytes / 1e6:,.0f} MB", about.discount or "unknown", about.structured, about.found_by),
            *(about.certainty.value, about.read),
        )
        yield f"| {' | '.join(cells)} |"


def _window(one: Profile) -> str:
    windows = ", ".join(f"`{window}`" for window in one.windows)
    return windows if one.expires else f"{windows}; goes on after it"


def _details() -> Iterator[str]:
    for resource, one in RESOURCES.items():
        title = one.about.title
        yield from (f"## {title[0].upper()}{title[1:]}", "", f"`{resource}`. {_limits(one)}", "")
        for operation, parameters in one.parameters.items():
            yield f"- {operation}: {_settable(parameters)}"
        for option, other in VARIANTS.get(resource, {}).items():
            yield f"- chat with `{option}`: {_settable(other.parameters['chat'])}"
        if set(one.endpoints) - set(one.parameters):
            yield f"- {', '.join(sorted(set(one.endpoints) - set(one.parameters)))}: parameters go as they are."
        yield from (f"- Not certain: {doubt}." for doubt in one.about.uncertain)
        yield ""


def _limits(one: Profile) -> str:
    rows = f"{one.min_rows:,} to {one.max_rows:,}" if one.min_rows > 1 else f"at most {one.max_rows:,}"
    batch, line = f"{one.max_bytes / 1e6:,.0f} MB", f"{one.max_line_bytes / 1e6:g} MB"
    said = [f"A batch has {rows} requests and at most {batch}, a request {line}."]
    if one.max_open:
        said.append(f"At most {one.max_open} batches are under way at once.")
    if one.keeps_seconds:
        said.append(f"Results are kept for {one.keeps_seconds / 86_400:g} days.")
    return " ".join(said)


def _settable(parameters: Parameters) -> str:
    names = sorted({*parameters.places, *(LIMITS if parameters.limit else ())})
    return _code(names) or "nothing"


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(page().rstrip("\n"))  # noqa: T201
