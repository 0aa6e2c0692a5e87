"""The routes of the server: the page, its files, and below /api JSON and the stream of events."""

from __future__ import annotations

import asyncio
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inbound_audit.errors import CapacityError, PolicyError, SharedStateError, cause_of, did_you_mean
from inbound_audit.feed import OPEN, Source
from inbound_audit.feed.what_if import as_json
from inbound_audit.web.access import HEADERS, Access, Refusal
from inbound_audit.web.hub import FAILED, Busy, Gone, Hub
from inbound_audit.web.wish import read_wish

STATIC = Path(__file__).parent / "static"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
MAX_ROWS = 10_000
MAX_BODY = 16_384
"""Bytes of a request's body."""
BODY_S = 10.0
"""Seconds for it."""

_NUMBERS = ("startv", "endv", "pid")

_T = TypeVar("_T")


def application(hub: Hub, access: Access, rows: int) -> ASGIApp:
    """The whole server, as an application of ASGI. `rows`: of a picture that says nothing of them."""
    api, files = _Api(hub, rows), _Files(STATIC)
    below = Mount(
        "/api",
        routes=[
            Route("/look", api.look),
            Route("/events", _Events(api), methods=["GET"]),
            Route("/history", api.history),
            Route("/what-if", api.what_if),
            Route("/change", api.change, methods=["POST"]),
        ],
        middleware=[Middleware(_ApiGuard, access=access)],
    )
    routes = Starlette(
        routes=[Route("/", files.page), Route("/static/{name}", files.file), below],
        exception_handlers={
            Refusal: _refused,
            HTTPException: _not_found,
            Busy: partial(_failed, 503),
            Gone: partial(_failed, 503),
            SharedStateError: partial(_failed, 503),
            CapacityError: partial(_failed, 503),
            OSError: partial(_failed, 503),
            PolicyError: partial(_failed, 400),
            ValueError: partial(_failed, 400),
            Exception: _broken,
        },
    )
    return _Guard(routes, access)


class _Api:
    def __init__(self, hub: Hub, rows: int) -> None:
        self.hub = hub
        self._rows = rows

    def wanted(self, request: Request) -> tuple[Source, int]:
        """What a request wants to see. Raises ValueError."""
        query = _query(request, (*Source._fields, "rows"))
        rows = _number("rows", query.pop("rows", str(self._rows)))
        if not 2 <= rows <= MAX_ROWS:
            raise ValueError(f"rows: write a whole number from 2 to {MAX_ROWS}")
        fields = {name: _number(name, text) if name in _NUMBERS else text for name, text in query.items()}
        return Source()._replace(**fields), rows  # type: ignore[arg-type]

    async def look(self, request: Request) -> Response:
        return Response(await self.hub.look(*self.wanted(request)), media_type="application/json")

    async def history(self, request: Request) -> Response:
        prefix = _query(request, ("prefix",)).get("prefix", "")
        return JSONResponse((await self.hub.call(lambda feed: feed.history(prefix)))._asdict())

    async def what_if(self, request: Request) -> Response:
        query = _query(request, ("limit", "service", "node"), repeated="limit")
        limits = request.query_params.getlist("limit")
        source = Source(query.get("service", OPEN.service), node=query.get("node"))
        found = await self.hub.call(lambda feed: as_json(feed.would_refuse(limits, source)))
        return JSONResponse(found)

    async def change(self, request: Request) -> Response:
        wish = read_wish(await _body(request))
        if not wish.confirm and (why := wish.needs_confirmation):
            return _answer(409, ValueError(why), confirm=True)
        changed = await self.hub.change(lambda feed: feed.change(wish.action, wish.prefix, wish.for_s, wish.why))
        return JSONResponse({"changed": changed})


class _Events:
    """The stream. It is an application of its own, since its client is one for as long as it goes on."""

    def __init__(self, api: _Api) -> None:
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        async with self._api.hub.client(*self._api.wanted(request)) as client:
            first = await client.frame()
            if isinstance(first.error, ValueError):
                first.check()
            events = client.events(request.state.permission.may_change) if request.method == "GET" else iter(())
            await StreamingResponse(events, media_type="text/event-stream")(scope, receive, send)


class _Files:
    """Files that a browser asks for again each time, whether they are still the same: the package may be a newer one.

    They are small, and read once: what a page needs to begin waits for no thread and no disk.
    """

    def __init__(self, directory: Path) -> None:
        contents = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix in _KINDS}
        self._files = {name: (content, f'"{sha256(content).hexdigest()}"') for name, content in contents.items()}

    async def page(self, request: Request) -> Response:
        return self._answer(request, "index.html")

    async def file(self, request: Request) -> Response:
        return self._answer(request, request.path_params["name"])

    def _answer(self, request: Request, name: str) -> Response:
        if name not in self._files:
            raise HTTPException(404)
        content, tag = self._files[name]
        headers = {"Cache-Control": "no-cache", "ETag": tag}
        # A proxy that compresses an answer marks its tag as a weak one.
        known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
        if tag in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=_KINDS[Path(name).suffix])


class _Guard:
    """Around everything: refuses requests of an unclear form and names that are not ours, and adds the headers of each
    answer. A browser keeps none that does not say otherwise."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            asked = Headers(scope=scope)
            self._access.check_form(scope["http_version"], asked)
            self._access.check_host(asked.get("host"))
        except Refusal as refusal:
            answer = _answer(refusal.status, refusal)
            answer.headers["Connection"] = "close"
            await answer(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)


class _ApiGuard:
    """Around /api: no page of another site, and a token where one is needed."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        changes = request.method not in ("GET", "HEAD")
        self._access.check_site(request.headers, changes=changes)
        permission = self._access.permission(request.headers.get("authorization"))
        if changes and not permission.may_change:
            raise Refusal(403, "this token may read, and not change")
        request.state.permission = permission

        await self._app(scope, receive, send)


async def _body(request: Request) -> bytes:
    """The body of a request. Raises Refusal for one that is too large or too slow."""

    async def read() -> bytes:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                raise Refusal(413, f"a request has at most {MAX_BODY} bytes")
        return body

    try:
        return await asyncio.wait_for(read(), BODY_S)
    except asyncio.TimeoutError:
        raise Refusal(408, f"the request did not come within {BODY_S:.0f} seconds") from None


def _answer(status: int, error: Exception, **more: Any) -> Response:
    text = cause_of(error) if isinstance(error, OSError) else str(error)
    return JSONResponse({"error": text, **more}, status, {"WWW-Authenticate": "Bearer"} if status == 401 else None)


async def _failed(status: int, _: Request, error: Exception) -> Response:
    return _answer(status, error)


async def _refused(_: Request, error: Exception) -> Response:
    return _answer(getattr(error, "status", 500), error)


async def _broken(_: Request, __: Exception) -> Response:
    """Of an error that was not foreseen. It is raised to the server, too, which logs it."""
    return JSONResponse({"error": FAILED}, 500)


async def _not_found(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail.lower()}, error.status_code, error.headers)


def _query(request: Request, known: tuple[str, ...], repeated: str = "") -> dict[str, str]:
    """The parameters of a request, each at most once but for one of them. Raises ValueError."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            raise ValueError(f"{name!r}: no such parameter{did_you_mean(name, known)} (known: {', '.join(known)})")
        if name in found and name != repeated:
            raise ValueError(f"{name}: write it once")
        found[name] = value
    return found


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{name}: {text!r}: write a whole number")
    return int(text)
