"""The application without a server: answers to errors that were not foreseen, and the files of the page."""

from __future__ import annotations

import contextlib
import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from tests.support.simulated_loop import AtOnce, SimulatedLoop, simulate

from inbound_audit.feed import Feed
from inbound_audit.web.access import HEADERS, Access
from inbound_audit.web.application import application
from inbound_audit.web.hub import Hub


class Unforeseen(Exception):
    pass


def broken_feed() -> Feed:
    raise Unforeseen


def answer_of(path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body."""
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def main(_: SimulatedLoop) -> None:
        given = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
        encoded = [(name.encode(), value.encode()) for name, value in given.items()]
        where, _mark, query = path.partition("?")
        scope = {
            "type": "http", "http_version": "1.1", "method": "GET", "path": where, "root_path": "",
            "query_string": query.encode(), "headers": encoded, "state": {},
        }  # fmt: skip
        with contextlib.closing(Hub(broken_feed, 1.0, AtOnce())) as hub, contextlib.suppress(Unforeseen):
            await application(hub, Access(open=True), 10)(scope, receive, send)

    simulate(main)
    found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message["body"] for message in sent[1:])


def test_the_answer_to_an_error_that_was_not_foreseen_has_the_headers_of_each_answer() -> None:
    status, headers, body = answer_of("/api/history?prefix=::")
    assert (status, list(json.loads(body))) == (500, ["error"])
    assert {name: headers.get(name.lower()) for name in HEADERS} == HEADERS
    assert headers["cache-control"] == "no-store"


def test_a_file_is_sent_again_only_if_it_is_another_one() -> None:
    status, headers, body = answer_of("/static/style.css")
    assert (status, headers["content-type"], body != b"") == (200, "text/css; charset=utf-8", True)
    tag = headers["etag"]
    assert answer_of("/static/main.js")[1]["etag"] != tag
    for known in (tag, f"W/{tag}", f'"x", {tag}'):
        status, headers, body = answer_of("/static/style.css", if_none_match=known)
        assert (status, headers["etag"], body) == (304, tag, b"")
    assert answer_of("/static/style.css", if_none_match='"x"')[0] == 200


@pytest.mark.parametrize("path", ["/static/", "/static/none.js", "/static/../hub.py", "/static/../static/main.js"])
def test_no_other_file_is_sent(path: str) -> None:
    assert answer_of(path)[0] == 404
