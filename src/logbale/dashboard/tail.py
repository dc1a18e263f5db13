"""/api/tail: entries as they are stored, as server-sent events (docs/api.md).

For this host's own page and for programs; a page from elsewhere gets 403. Only plain filters: a stranger's regular
expression could take seconds of CPU.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from logbale.dashboard.parameters import ParameterError, shown, single
from logbale.entry_filter import MAX_NAMES, MAX_TEXT, EntryFilter, level_names
from logbale.sinks.live_tail import LiveTail, NoPlace
from logbale.sinks.viewer import Shown, Viewer
from logbale.sse import encode_event, encode_silence

SILENCE = 15.0
"""Seconds without an event after which a viewer hears that the connection lives."""

RETRY = b"retry: 2000\n\n"
"""Milliseconds that a browser waits before it comes again."""

_UP_TO_1000 = re.compile(r"[0-9]{1,3}|1000")

_HEADERS = {"X-Accel-Buffering": "no"}
"""A proxy in front passes events on as they come."""


def tail_route(live: LiveTail) -> Route:
    """The route."""

    async def tail(request: Request) -> Response:
        if not _is_from_here(request):
            return PlainTextResponse("The live tail is for this dashboard's own page and for programs.\n", 403)
        try:
            wanted, last = _wanted(request.query_params), _last(request.query_params)
        except ParameterError as error:
            return PlainTextResponse(f"{error}\n", 400)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        try:
            viewer = await live.join(wanted, after=_last_event_id(request), last=last)
        except NoPlace:
            return PlainTextResponse(
                f"There is no place left at the live tail ({live.max_viewers} may look); try again later.\n", 503
            )
        return _Events(live, viewer)

    return Route("/api/tail", tail)


def _is_from_here(request: Request) -> bool:
    """Whether no page of another site asks. Programs send neither header."""
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


def _wanted(query: QueryParams) -> EntryFilter:
    """The filter of the query. Raises ParameterError."""
    text = single(query, "q") or ""
    if len(text) > MAX_TEXT:
        raise ParameterError(f"q: {len(text)} characters, expected at most {MAX_TEXT}")
    return EntryFilter(text, level_names(_names(query, "level")), frozenset(_names(query, "service")))


def _names(query: QueryParams, parameter: str) -> list[str]:
    names = [name for value in query.getlist(parameter) for name in value.split(",") if name]
    if len(names) > MAX_NAMES:
        raise ParameterError(f"{parameter}: {len(names)} names, expected at most {MAX_NAMES} with commas between them")
    return names


def _last(query: QueryParams) -> int:
    text = single(query, "last") or "0"
    if not _UP_TO_1000.fullmatch(text):
        raise ParameterError(f"last={shown(text)}: expected a number from 0 to 1000")
    return int(text)


def _last_event_id(request: Request) -> int | None:
    """Where a viewer who comes again had been; what is no number of ours is none."""
    text = request.headers.get("last-event-id", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


class _Events(StreamingResponse):
    """The viewer's events until the viewer goes, or there are no more."""

    def __init__(self, live: LiveTail, viewer: Viewer) -> None:
        super().__init__(_events(viewer), media_type="text/event-stream", headers=_HEADERS)
        self._live = live
        self._viewer = viewer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not in the generator: a viewer who is gone before its first event never starts it.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._live.leave(self._viewer)


async def _events(viewer: Viewer) -> AsyncIterator[bytes]:
    yield RETRY
    while True:
        try:
            async with asyncio.timeout(SILENCE):
                news = await viewer.take()
        except TimeoutError:
            yield encode_silence(viewer.next - 1)
            continue
        if news is None:
            return
        yield _encode(news)


def _encode(news: Shown) -> bytes:
    events = b""
    if news.skipped or news.restarted:
        note = {"entries": news.skipped} | ({"restarted": True} if news.restarted else {})
        # With entries behind it, it has no number: whoever loses the connection in between gets both again.
        events = encode_event("skipped", msgspec.json.encode(note), None if news.data else news.last)
    if news.data:
        events += encode_event("entries", news.data, news.last)
    return events
