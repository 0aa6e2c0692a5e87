"""Who may read and change by the web: names of the server, tokens, and requests of other sites."""

from __future__ import annotations

import pytest

from inbound_audit.web.access import Access, Refusal, read_name, read_token

READING, CHANGING = "r" * 32, "c" * 32


def refused(access: Access, authorization: str | None) -> int:
    with pytest.raises(Refusal) as refusal:
        access.permission(authorization)
    return refusal.value.status


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:1", "[::1]:8080", "[::1]", "192.0.2.7",
        "[2001:db8::7]:80",         "audit.example.net", "Audit.Example.Net:443",
    ],
)  # fmt: skip
def test_a_name_of_the_server(host: str) -> None:
    Access(hosts=["audit.example.net"]).check_host(host)


@pytest.mark.parametrize(
    "host",
    [
        None, "", "rebound.example", "rebound.example:8080", "localhost.rebound.example", "127.0.0.1.rebound.example",
        "localhost:8080:", "localhost@rebound.example", "127.1", "2130706433", "0x7f.0.0.1", "::1", "[::1",
        "localhost.", "a.audit.example.net", "localhost, rebound.example", "[rebound.example]", "localhost:8080x",
    ],
)  # fmt: skip
def test_a_name_that_leads_here_by_dns_is_refused(host: str | None) -> None:
    with pytest.raises(Refusal, match="--host") as refusal:
        Access(hosts=["audit.example.net"]).check_host(host)
    assert refusal.value.status == 421


def test_a_further_name_is_one_that_a_browser_sends() -> None:
    Access(hosts=[read_name("Audit.Example.Net")]).check_host("audit.example.net:8443")
    for text in (
        "audit.example.net:8443",
        "https://audit.example.net",
        "audit.example.net/",
        "b\xfccher.example",
        "",
        "a.",
    ):
        with pytest.raises(ValueError, match="without a port"):
            read_name(text)


def test_without_tokens_an_open_server_is_read_and_not_changed() -> None:
    access = Access(open=True)
    assert not access.permission(None).may_change
    for authorization in (f"Bearer {READING}", "Bearer ", "Bearer", ""):
        assert refused(access, authorization) == 401


def test_a_server_that_is_not_open_needs_a_token() -> None:
    assert refused(Access(), None) == 401
    assert refused(Access(), "Bearer ") == 401


@pytest.mark.parametrize("is_open", [False, True])
def test_what_a_token_permits(is_open: bool) -> None:
    access = Access(READING, CHANGING, open=is_open)
    assert not access.permission(f"Bearer {READING}").may_change
    assert access.permission(f"bearer {CHANGING}").may_change
    wrong = (
        READING,
        f"Basic {CHANGING}",
        f"Bearer {CHANGING}x",
        f"Bearer {CHANGING[1:]}",
        f"Bearer {CHANGING} x",
        "Bearer é",
    )
    for authorization in wrong:
        assert refused(access, authorization) == 401
    assert READING not in repr(access)
    assert CHANGING not in repr(access)


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "headers",
    [
        JSON,
        {"content-type": "application/json; charset=utf-8"},
        {**JSON, "sec-fetch-site": "same-origin"},
        {**JSON, "host": "localhost:8080", "origin": "http://localhost:8080"},
        {**JSON, "host": "audit.example.net", "origin": "https://audit.example.net"},
    ],
)
def test_a_change_of_the_page_itself(headers: dict[str, str]) -> None:
    Access().check_site(headers, changes=True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "multipart/form-data; boundary=application/json"}, 415),
        ({"content-type": "text/plain; application/json"}, 415),
        ({**JSON, "sec-fetch-site": "cross-site"}, 403),
        ({**JSON, "sec-fetch-site": "same-site"}, 403),
        ({**JSON, "host": "localhost:8080", "origin": "http://localhost:8081"}, 403),
        ({**JSON, "host": "localhost:8080", "origin": "http://rebound.example:8080"}, 403),
        ({**JSON, "host": "localhost:8080", "origin": "null"}, 403),
        ({**JSON, "host": "localhost:8080", "origin": ""}, 403),
    ],
)
def test_a_change_that_another_site_may_have_sent_is_refused(headers: dict[str, str], status: int) -> None:
    with pytest.raises(Refusal) as refusal:
        Access().check_site(headers, changes=True)
    assert refusal.value.status == status


def test_another_site_reads_nothing_either() -> None:
    Access().check_site({"sec-fetch-site": "none"}, changes=False)  # a person has typed the address
    with pytest.raises(Refusal):
        Access().check_site({"sec-fetch-site": "cross-site"}, changes=False)


def test_the_token_in_a_file() -> None:
    assert read_token(f" {READING}\n") == READING
    for text in ("", "short", f"{READING} {READING}", f"{READING}\n{READING}", "é" * 20, "a" * 257):
        with pytest.raises(ValueError, match="write one token of 16 to 256"):
            read_token(text)


@pytest.mark.parametrize(
    ("status", "version", "headers"),
    [
        (505, "9.9", {}),
        (505, "2.0", {}),
        (505, "0.9", {}),
        (400, "1.1", {"transfer-encoding": "chunked", "content-length": "5"}),
    ],
)
def test_a_request_that_a_proxy_may_read_in_another_way_is_refused(
    status: int, version: str, headers: dict[str, str]
) -> None:
    with pytest.raises(Refusal) as refusal:
        Access.check_form(version, headers)
    assert refusal.value.status == status


def test_requests_of_both_versions_and_either_length_are_taken() -> None:
    for version in ("1.0", "1.1"):
        for headers in ({}, {"content-length": "5"}, {"transfer-encoding": "chunked"}):
            Access.check_form(version, headers)
