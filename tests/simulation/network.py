"""The network between a worker and the provider, as an httpx transport."""

from __future__ import annotations

import httpx

from .faults import CALM, HTTP_SECONDS
from .hub import Hub
from .provider import Provider


def call_of(method: str, path: str) -> str:
    """What a request is for."""
    parts = path.removeprefix("/v1/").split("/")
    if method == "DELETE":
        return "delete"
    if parts[0] == "files":
        return "upload" if method == "POST" else "download" if parts[-1] == "content" else "get"
    if method == "POST":
        return "create" if len(parts) == 1 else "cancel"
    return "list" if len(parts) == 1 else "get"


class Network(httpx.BaseTransport):
    """Loses, delays and repeats; which of these is drawn for each request."""

    def __init__(self, hub: Hub, provider: Provider) -> None:
        self.hub = hub
        self.provider = provider

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        hub, call = self.hub, call_of(request.method, request.url.path)
        hub.effect(f"{request.method} {request.url.path}", weight=3.0 if call == "create" else 1.0)
        worker = hub.worker
        if call == "create" and worker is not None:
            leaves = hub.setting.sent_after(hub.dice)
            if leaves is not None:
                hub.pause(max(worker.intent_at + leaves - hub.monotonic(), 0.0))
        content = request.read()  # here the sender checks for the last time whether it is still allowed
        if call == "create" and hub.setting.gap:
            hub.effect("the create's bytes", weight=3.0)
        fate = hub.setting.fate(call, hub.dice) if hub.monotonic() < CALM else None
        if fate and worker:
            worker.met.add(f"{call} {fate}")
            self.provider.faults[f"{call} {fate}"] += 1
            hub.say(f"{call}: {fate}")
        if not fate and call in {"create", "cancel"}:
            hub.say(call)
        return self._travel(request, content, call, fate)

    def _travel(self, request: httpx.Request, content: bytes, call: str, fate: str | None) -> httpx.Response:
        hub, dice = self.hub, self.hub.dice
        match fate:
            case "no connection":
                hub.pause(dice.uniform(0.0, 10.0))
                raise httpx.ConnectError("connection refused", request=request)
            case "429":
                wait = str(dice.randrange(1, 100))
                return hub.respond(429, content=b'{"error": {"message": "slow down"}}', headers={"retry-after": wait})
            case "refused":
                return hub.respond(400, content=b'{"error": {"message": "no"}}')
            case "5xx":
                return hub.respond(dice.choice((500, 503)), content=b"sorry")
            case "request lost":
                hub.effect("the time-out", wait=HTTP_SECONDS)
                raise httpx.ReadTimeout("nothing came back", request=request)
            case "delayed" if call == "list" and hub.setting.mode == "edge":
                response = self._serve(request, content)
                hub.effect("the late listing", wait=dice.uniform(0.0, HTTP_SECONDS))  # what it shows was true before
                return response
            case "delayed":
                return self._delayed(request, content, hub.setting.delay(dice))
            case _:
                hub.pause(dice.uniform(0.02, 1.0))
                if call == "create" and dice.random() < hub.setting.twin:
                    self._double(request, content)
                response = self._serve(request, content)
        hub.effect("the reply", weight=2.0)
        if fate == "reply lost":
            hub.pause(dice.uniform(0.0, HTTP_SECONDS))
            raise httpx.ReadError("connection reset", request=request)
        if fate == "5xx after":
            return hub.respond(dice.choice((500, 502, 504, 408, 409)), content=b"<html>bad gateway</html>")
        if fate == "cut" and response.is_success and len(response.content) > 1:
            return hub.respond(200, content=self._cut(request.url.path.split("/")[-2], response.content))
        return response

    def _cut(self, file: str, content: bytes) -> bytes:
        """A file without its end; one in two ends with a line, where its size tells and hasn't told before."""
        dice = self.hub.dice
        if dice.random() < 0.5 and self.provider.may_end_early(file):
            return b"".join(content.splitlines(keepends=True)[:-1])
        return content[: -dice.randrange(2, min(len(content), 40) + 1)]

    def _double(self, request: httpx.Request, content: bytes) -> None:
        """A proxy sends it twice behind our back."""
        self.provider.faults["create doubled"] += 1
        if self.hub.worker:
            self.hub.worker.met.add("create doubled")
        self.provider.doubling = True
        self._serve(request, content)
        self.provider.doubling = False

    def _delayed(self, request: httpx.Request, content: bytes, delay: float) -> httpx.Response:
        box: list[httpx.Response] = []
        self.hub.at(self.hub.monotonic() + delay, lambda: box.append(self._serve(request, content)))
        self.hub.effect("the late reply", wait=min(delay + 0.02, HTTP_SECONDS))
        if not box:
            raise httpx.ReadTimeout("it takes too long", request=request)
        return box[0]

    def _serve(self, request: httpx.Request, content: bytes) -> httpx.Response:
        return self.provider.serve(request.method, request.url.path, request.url.params, content, request.headers)
