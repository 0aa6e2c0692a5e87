"""A mistake in a command line: nothing is done, the status is 2, and one line on standard error names it."""

from __future__ import annotations

import pytest

from inbound_audit.__main__ import main

MISTAKES = {
    # a line: words of what is told about it
    "serve --limit x": "--limit",
    "serve --limit /24=": "/24=100",
    "serve --limit /24=-1": "/24=100",
    "serve --limit /33,/56=1": "/33",
    "serve --limit /129=1": "/129",
    "serve --limit 24=1": "24",
    "serve --limit /24=1 --limit /24=2": "twice",
    "serve --limit /24=1 --policy x.lua": "--policy",
    "serve --network a=::/0 --policy x.lua": "--network",
    "serve --limit a:/24=1": "no network is named 'a'",
    "serve --limit a:/129=1 --network a=::/0": "/129",
    "serve --limit partner:/24=1 --network partners=192.0.2.0/24": "did you mean 'partners'",
    "serve --limit total=x": "/24=100",
    "serve --limit all=5": "all",
    "serve --network a=::/0": "'limits' or 'total'",
    "serve --network a=192.0.2.0/33 --limit a:total=1": "192.0.2.0/33",
    "serve --network a= --limit a:total=1": "is empty",
    "serve --network 192.0.2.0/24": "partner=192.0.2.0/24",
    "serve --network a=::/0 --network a=::/0 --limit a:total=1": "twice",
    "serve --exempt ::1 --policy x.lua": "--exempt",
    "serve --exempt 192.0.2.0/33": "192.0.2.0/33",
    "serve --exempt 2001:db8::/129": "2001:db8::/129",
    "serve --proxy-from balancer.example": "balancer.example",
    "serve --listen 127.0.0.1": "ADDRESS:PORT",
    "serve --listen 2525": ":2525 for every address",
    "serve --max-recipients 0": "--max-recipients",
    "serve --max-size many": "64M",
    "serve --max-commands 0": "--max-commands",
    "serve --grace x": "30s",
    "serve --hostname mx_(1)": "mx.example.com",
    "serve --listen ::1:25": "[::1]:2525",
    "serve --listen [::1]": "[::1]",
    "serve --listen []:65536": "65536",
    "serve --listen :-1": "-1",
    "serve --listen :²": "²",
    "serve --tls-key key.pem": "--tls-cert",
    "serve --prefixlen 24": "24,56",
    "serve --prefixlen 33,56": "33",
    "serve --when-full maybe": "maybe",
    "serve --grace -1": "--grace",
    "serve --capacity lots": "64M",
    "serve surplus": "surplus",
    "serve --nonsense": "--nonsense",
    "count --cidr /24": "/24",
    "count --cidr 2001:db8::/129": "2001:db8::/129",
    "count --top 0": "--top",
    "count --prefixlen 24,129": "129",
    "count a b": "b",
    "sevre": "sevre",
    "serve --workers 0": "--workers",
    "serve --workers 257": "256",
    "serve --workers two": "two",
    "serve --workers 2": "--shared NAME",
    "serve --group mail": "--shared",
    "serve --shared ../x": "../x",
    "serve --shared .hidden": ".hidden",
    "serve --workers 2 --shared": "--shared",
    "serve --monitor 300": "--monitor",
    "serve --monitor 300,": "'300,'",
    "serve --monitor 0,6": "0,6",
    "serve --monitor 300,0": "300,0",
    "serve --monitor 300,1025": "1024",
    "serve --monitor -300,6": "-300,6",
    "serve --monitor 300,6,6": "300,6,6",
    "serve --monitor 300,6 --monitor 300,6": "each once",
    "serve --monitor 300,6 --monitor-bytes 100K": "16384",
    "serve --monitor 300,6 --monitor-bytes few": "64M",
    "serve --monitor-bytes": "--monitor-bytes",
    "serve --state": "--state",
    "show": "NAME",
    "show mail /24": "/24",
    "show mail 192.0.2.0/33": "192.0.2.0/33",
    "show mail host.example": "host.example",
    "show mail ::/0 surplus": "surplus",
    "show mail --from me": "--from",
    "show mail --from 0": "--from",
    "top": "NAME",
    "top mail -n 0": "-n",
    "top mail --prefixlen 24": "24,56",
    "top mail --prefixlen 24,129": "129",
    "top mail surplus": "surplus",
    "ps": "NAME",
    "ps mail surplus": "surplus",
    "ps mail --watch": "--watch",
}


@pytest.mark.parametrize(("line", "told"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_it(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert told in output.err
    assert output.err.count("\n") == 1
    assert "--help" in output.err
