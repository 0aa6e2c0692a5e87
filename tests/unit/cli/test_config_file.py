"""The configuration file: every option is a key, values mean what they do as options, every problem is named."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.support.toml import document as written

import inbound_audit.cli
from inbound_audit.cli import main
from inbound_audit.cli.check import STARTS
from inbound_audit.cli.config import keys
from inbound_audit.cli.config.document import ConfigError, Document, model, schema
from inbound_audit.cli.config.source import settings_from
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.milter import settings_for
from inbound_audit.cli.serve import settings_of
from inbound_audit.errors import ClusterError

TABLES = keys.tables()
WRONG = """\
shared = 5
workers = 3
limits = {}
[limit]
"/240,/48" = 100
"/24" = [100, "300/5m", "x"]
[network.partner]
prefixes = ["192.0.2.0/24", "x"]
total = "5/"
[network.second]
prefixe = 3
[network."a=b"]
prefixes = ["192.0.2.0/24"]
[serve]
listen = ["127.0.0.1:0",
  "5",
]
landlock = "no"
max-size = true
grace = 5
wrokers = 5
workers = "5"
tls_cert = "s"
on-error = "acept"
policy = "a\\u0000b"
monitor = "300,6"
max-hook-ms = 0
[miltr]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "inbound-audit.toml"


def complaints(file: Path, text: str) -> list[str]:
    """Without the name of the file."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Document(str(file))
    assert caught.value.exit_code == 2
    assert str(file) in caught.value.message
    return [line.removeprefix(f"{file}:") for line in caught.value.lines]


def options_of(name: str, *arguments: str) -> dict[str, Any]:
    command = main.commands[name]
    with command.make_context(name, list(arguments)) as context:
        return context.params


def check(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["check", *arguments], standalone_mode=False)
    return (done.return_value if done.exception is None else 2), done.output


# ---- one table for the options and the keys


def test_every_option_is_a_key_and_every_key_is_an_option() -> None:
    properties = schema()["$defs"]
    found = {
        name: {option for one in main.commands[name].params for option in [*one.opts, *one.secondary_opts]}
        for name in TABLES
    }
    assert {"serve", "guard", "milter", "policyd", "agent", "metrics", "replay"} <= set(found)
    for name, options in found.items():
        spelled = {option.lstrip("-") for option in options if option.startswith("--")}
        spelled |= {str(one.name) for one in main.commands[name].params if isinstance(one, click.Argument)}
        positive = {option for option in spelled if option.removeprefix("no-") not in spelled - {option}}
        assert set(properties[name]["properties"]) == positive - {"config"}, name


def test_a_table_has_the_name_of_no_common_key() -> None:
    assert not TABLES.keys() & keys.common_keys().keys()
    assert {"shared", "limit", "network", "exempt", "policy", "monitor"} <= keys.common_keys().keys()
    assert not {"listen", "workers", "record", "config"} & keys.common_keys().keys()


def test_the_start_of_every_command_is_checked() -> None:
    assert STARTS.keys() == TABLES.keys()


def test_the_schema_says_what_an_editor_needs() -> None:
    serve = schema()["$defs"]["serve"]
    assert serve["additionalProperties"] is False
    properties = serve["properties"]
    assert properties["listen"]["type"] == "array"
    assert properties["workers"] == {
        "title": "workers", "type": "integer", "minimum": 1, "maximum": 256, "default": 1,
        "description": properties["workers"]["description"],
    }  # fmt: skip
    assert properties["on-error"]["enum"] == ["accept", "refuse"]
    assert properties["gate"]["type"] == "boolean"
    assert all(one["description"] for one in properties.values())
    assert properties["network"]["additionalProperties"]["required"] == ["prefixes"]


def test_the_schema_that_is_shipped_is_that_of_the_options() -> None:
    """`make schema` writes it."""
    shipped = Path(inbound_audit.cli.__file__).with_name("config.schema.json")
    assert json.loads(shipped.read_text("utf-8")) == schema()


# ---- values


OPTIONS: list[tuple[str, Any]] = [
    ("listen", st.lists(st.sampled_from([":25", "127.0.0.1:2525", "[::1]:25", "localhost:0"]), max_size=3)),
    ("limit", st.dictionaries(
        st.sampled_from(["/24", "/32,/64", "/0", "total"]), st.integers(0, 1000), max_size=3)),
    ("exempt", st.lists(st.sampled_from(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]), max_size=2, unique=True)),
    ("dry-run", st.booleans()),
    ("gate", st.booleans()),
    ("landlock", st.booleans()),
    ("max-hook-ms", st.integers(1, 10**6)),
    ("hostname", st.sampled_from(["mx.example.com", "[192.0.2.1]"])),
    ("timeout", st.sampled_from(["30s", "5m"])),
    ("max-size", st.sampled_from([1000, "64K", "1M"])),
    ("on-error", st.sampled_from(["accept", "refuse"])),
    ("prefixlen", st.just("24,56")),
    ("workers", st.integers(1, 256)),
    ("monitor", st.lists(st.sampled_from(["300,6", "1h,2"]), unique=True, max_size=2)),
    ("policy-dir", st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1), max_size=2)),
    ("maildir", st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1)),
]  # fmt: skip


def as_arguments(name: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        switches = {one for option in main.commands["serve"].params for one in [*option.opts, *option.secondary_opts]}
        yield from [f"--{name}"] * value
        yield from [f"--no-{name}"] * (not value and f"--no-{name}" in switches)
    elif isinstance(value, dict):
        yield from (f"--{name}={key}={each}" for key, each in value.items())
    else:
        yield from (f"--{name}={each}" for each in (value if isinstance(value, list) else [value]))


@given(st.fixed_dictionaries({"shared": st.just("mail")}, optional=dict(OPTIONS)), st.data())
def test_a_file_means_what_the_command_line_means(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, Any], data: st.DataObject
) -> None:
    """Whether a key stands in the table or before all tables."""
    file = tmp_path_factory.getbasetemp() / "drawn.toml"
    common = {name: drawn[name] for name in drawn if name in keys.common_keys() and data.draw(st.booleans())}
    table = {name: value for name, value in drawn.items() if name not in common}
    file.write_text(written(common, serve=table))
    arguments = [argument for name, value in drawn.items() for argument in as_arguments(name, value)]
    assert settings_of(options_of("serve", "--config", str(file))) == settings_of(options_of("serve", *arguments))


def test_networks_have_their_limits_with_them(file: Path) -> None:
    file.write_text(
        'limit = {"/24" = [100, "300/5m"]}\nnetwork.partner = {prefixes = ["192.0.2.0/24", "2001:db8::/32"], '
        'limits = {"/32" = [50, "20 rejections/1h"]}, total = 500}\n'
    )
    arguments = ["/24=100", "/24=300/5m", "partner:/32=50"]
    given = [f"--limit={one}" for one in [*arguments, "partner:/32=20 rejections/1h", "partner:total=500"]]
    network = "--network=partner=192.0.2.0/24,2001:db8::/32"
    for name, make in (("serve", settings_of), ("milter", settings_for)):
        assert make(options_of(name, "--config", str(file))) == make(options_of(name, network, *given))


def test_the_command_line_comes_before_the_table_and_this_before_the_keys_above(file: Path) -> None:
    file.write_text(
        'shared = "mail"\nexempt = ["10.0.0.0/8"]\non-error = "refuse"\nlimit = {"/24" = 5, "/32" = 2}\n'
        'network.partner = {prefixes = ["192.0.2.0/24"], total = 500}\n[serve]\nexempt = ["::1"]\n'
        'quiet = true\n[milter]\nservice = "IMAP"\n'
    )
    found: list[Any] = []

    def keep(**options: Any) -> None:
        found.append(settings_from(options, settings_of))

    serve = main.commands["serve"]
    twin = click.Command("serve", params=serve.params, callback=keep)
    twin.main(["--config", str(file), "--shared", "other", "--limit", "/24=7"], standalone_mode=False)
    (settings,) = found
    assert settings.shared == "other"
    assert settings.exempt == ("::1",)
    assert settings.on_error == "refuse"
    assert settings.limits == {"/24": 7, "partner:total": 500}
    assert settings.quiet
    assert settings.source is not None
    assert settings.source.read() == settings
    file.write_text('shared = "mail"\n[serve]\nquiet = false\n')
    again = settings.source.read()
    assert (again.shared, again.limits, again.exempt, again.quiet) == ("other", {"/24": 7}, (), False)
    file.write_text("shared = 5\n")
    with pytest.raises(Failure, match=":1: shared: write a text"):
        settings.source.read()


def test_an_agent_takes_from_the_file_what_it_can_change(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = 'engine = "redis"\ncluster = "eu"\nname = "mail"\n'
    file.write_text(f'[agent]\nnode = "mx1"\njoin = ["redis://127.0.0.1:1"]\n{engine}')
    found: list[Any] = []
    monkeypatch.setattr(sys.modules["inbound_audit.cli.agent"], "_run", lambda *given: found.extend(given))
    main.main(["agent", "--config", str(file), "--user", "me"], standalone_mode=False)
    name, group, _, now, *_ = found
    assert (name, group) == ("mail", None)
    assert (now().node, now().cluster, now().join, now().user) == ("mx1", "eu", ("redis://127.0.0.1:1",), "me")
    assert caplog.messages == []
    file.write_text(f'[agent]\nnode = "mx2"\njoin = ["redis://127.0.0.1:2"]\nuser = "you"\n{engine}')
    again = now()
    assert (again.node, again.join, again.user) == ("mx1", ("redis://127.0.0.1:2",), "me")
    assert caplog.messages == ["not reloaded, restart for: agent.node"]
    file.write_text("[agent]\nnodes = 5")
    with pytest.raises(ClusterError, match=r":2: agent\.nodes: write a text"):
        now()


# ---- problems


def test_each_problem_has_its_line_and_key(file: Path) -> None:
    expected = [
        "1: shared: write a text, in quotes",
        "2: workers: unknown key here; write it in [serve]",
        "3: limits: unknown key; did you mean 'limit'?",
        "5: limit.\"/240,/48\": '/240,/48': has a prefix length",
        "6: limit.\"/24\"[2]: '/24=x': write a prefix length",
        "8: network.partner.prefixes[1]: 'x': is not an address",
        "10: network.second: write a list, such as prefixes =",
        "11: network.second.prefixe: unknown key; did you mean 'prefixes'?",
        "13: network.\"a=b\".prefixes: 'a=b': write a name without an equals sign",
        "16: serve.listen[1]: '5': write --listen :5",
        "18: serve.landlock: write true or false",
        "19: serve.max-size: write a text, in quotes",
        "20: serve.grace: write a text, in quotes",
        "21: serve.wrokers: unknown key; did you mean 'workers'?",
        "22: serve.workers: write a whole number, without quotes",
        "23: serve.tls_cert: unknown key; did you mean 'tls-cert'?",
        "24: serve.on-error: 'acept': write one of accept, refuse; did you mean 'accept'?",
        "25: serve.policy: a text has no NUL",
        "26: serve.monitor: write a list, in brackets",
        "27: serve.max-hook-ms: '0': write a whole number from 1 on",
        "28: miltr: unknown key; did you mean 'milter'?",
    ]
    found = complaints(file, WRONG)
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected
    file.write_text('[network.partner]\nprefixes = ["192.0.2.0/24"]\ntotal = "5/"')
    with pytest.raises(ConfigError, match=r":3: network\.partner\.total: "):
        Document(str(file))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("serve = 5", r"1: serve: write a table: \[serve\]"),
        ("[[serve]]\n", r"1: serve: write a table: \[serve\]"),
        ("[serve]\nlimit = [5]", r"2: serve\.limit: write a table"),
        ("[serve]\nlimit = {'/24' = true}", r"2: serve\.limit\.\"/24\": write a number or a text"),
        ("[serve]\nlimit = {'/24' = -5}", r"2: serve\.limit\.\"/24\": '/24=-5': write"),
        ("[serve]\nnetwork = []", r"2: serve\.network: write a table, such as"),
        ("[serve]\nnetwork.a = 5", r"2: serve\.network\.a: write a table with prefixes"),
        ('[serve]\nnetwork."a:b".prefixes = ["::1"]', r'2: serve\.network\."a:b"\.prefixes: .*without a colon'),
        ("[serve]\n'a\\\"\u00e9\u2028' = 5", r'2: serve\."a\\\\\\"\\u00e9\\u2028": unknown key'),
        ("[serve]\nworkers = 0x" + "f" * 4000, r"2: serve\.workers: "),
        ("[serve]\nworkers = " + "9" * 5000, r"1: "),
        ("[serve]\nworkers = 2026-11-28", r"2: serve\.workers: write a whole number"),
        ("[serve]\n\nworkers 5", "3: "),
        ("[serve]\nlisten = [", "2: "),
        ("[serve]\nquiet = true\nquiet = true", "3: "),
        ("a = " + "[" * 5000, "1: "),
    ],
)
def test_a_problem(file: Path, text: str, complaint: str) -> None:
    (found,) = complaints(file, text)
    assert re.match(complaint, found), found


def test_a_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"# \n# \xff\n")
    with pytest.raises(ConfigError, match=":2: is no text in UTF-8"):
        Document(str(file))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('shared = "mail"\n[serve]\ntls-key = "k"', r"3: serve\.tls-key: --tls-key needs --tls-cert"),
        ("[serve]\nworkers = 5", r"2: serve\.workers: --workers 5 needs --shared"),
        ('policy = "a.lua"\n[serve]\n[serve.limit]\n"/24" = 5', "1: policy: --policy excludes"),
        ('[serve]\npolicy = "missing.lua"', r"2: serve\.policy: --policy: missing\.lua"),
        ('[milter]\nuser = "no such user"', r"2: milter\.user: --user and --group"),
        ('[serve]\ntls-cert = "missing.pem"', r"2: serve\.tls-cert: --tls-cert missing\.pem: no such file"),
        ('[serve]\nmonitor = ["300,6"]\nmonitor-bytes = 5', r"2: serve\.monitor: --monitor: monitor_bytes"),
        ('# no comment\n[agent]\nname = "mail"\nnode = "mx1"', r"2: agent: Missing option '--cluster'"),
        ('[agent]\nname = "mail"\nnode = "-"\ncluster = "eu"', r"3: agent\.node: --node '-': a name is"),
        ('[replay]\nlimit = {"/24" = "5 rejections"}', r"2: replay\.limit"),
        ('[replay]\npolicy = "missing.lua"', r"2: replay\.policy: --policy: missing\.lua"),
        ('[serve]\nnetwork.a.prefixes = ["::1"]', r"2: serve\.network: --network a: write its limit"),
    ],
)
def test_what_does_not_go_together(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    status, output = check(str(file))
    assert status == 1
    assert re.match(f"{re.escape(str(file))}:{complaint}", output), output
    status, output = check(str(file), "--json")
    assert status == 1
    (problem,) = json.loads(output)["problems"]
    assert f"{problem['line']}: {problem['key']}: {problem['why']}"


KEYS = sorted({*keys.common_keys(), *(name for table in TABLES.values() for name in table)})
VALUES = st.recursive(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=9), st.integers(), st.booleans(),
        st.sampled_from(["300,6", "24,56", "10s", "64K", ":25", "192.0.2.0/24", "mail", 5, 100]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([*KEYS, "/24", "total", "prefixes", "limits", "a:total"]), inner, max_size=3),
    ),
    max_leaves=6,
)  # fmt: skip
TABLE = st.dictionaries(st.sampled_from([*KEYS, "wrong"]), VALUES, max_size=4)


@given(st.one_of(st.builds(written, TABLE, serve=TABLE, milter=TABLE), st.text(max_size=40), st.just(WRONG)))
def test_whatever_a_file_has_it_is_used_or_said_to_be_wrong(tmp_path_factory: Any, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    file.write_text(text, errors="replace")
    lines = text.count("\n") + 1
    try:
        document = Document(str(file))
        for name in TABLES:
            document.options(name)
    except ConfigError as error:
        for problem in error.problems:
            assert 1 <= problem.line <= max(lines, len(text.splitlines()) + 1)
            assert problem.why
            assert not str(problem.why).count("\n")


# ---- the command


def test_check_says_what_would_serve(file: Path, tmp_path: Path) -> None:
    (tmp_path / "p.sieve").write_text("keep;")
    file.write_text('limit = {"/24" = "300/5m"}\n[serve]\n[milter]\nlimit = {"/32" = 5}\n')
    assert check(str(file)) == (0, "serve: /24=300/5m, with the monitors 300,2\nmilter: /32=5\n")
    assert json.loads(check(str(file), "--json")[1]) == {
        "file": str(file),
        "checked": {"serve": "/24=300/5m, with the monitors 300,2", "milter": "/32=5"},
        "problems": [],
    }  # fmt: skip
    file.write_text('exempt = ["::1"]\n[replay]\nlimit = {"/32" = 5}\nsuggest = "1%"\n')
    assert check(str(file)) == (0, "replay: /32=5\n")
    file.write_text("# nothing\n")
    assert check(str(file)) == (0, "serve: /32,/64=10 /24,/48=100 /0=20000\n")
    file.write_text(WRONG)
    status, output = check(str(file))
    assert status == 1
    assert len(output.splitlines()) == WRONG.count("\n") - 7
    assert check(str(file.parent / "p.sieve")) == (0, f"{file.parent}/p.sieve: a policy (Sieve)\n")
    file.with_suffix(".lua").write_text("wrong")
    assert check(str(file.with_suffix(".lua")))[0] == 1


def test_check_needs_a_file_or_the_schema() -> None:
    assert check()[0] == 2
    assert check("file.toml", "--schema")[0] == 2
    status, output = check("--schema")
    assert status == 0
    assert json.loads(output) == schema() == {**schema(), **model().model_json_schema()}


# ---- the page


ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "howto" / "configuration.md").read_text("utf-8")


def test_the_example_of_the_page(file: Path) -> None:
    example = (ROOT / "examples" / "inbound-audit.toml").read_text("utf-8")
    text = example.partition("\n")[2]
    assert f"```toml\n{text}```" in PAGE
    file.write_text(text)
    limits = "/32,/64=10 /24,/48=100 /24,/48=300/5m partner:/32,/64=200 partner:total=1000, with the monitors 300,2"
    assert check(str(file)) == (0, f"serve: {limits}\nmilter: {limits}\nmetrics: the audits mail\n")
    file.write_text(text.replace("listen", "lisen", 1).replace("20M", "20Q"))
    output = check(str(file))[1].replace(str(file), "/etc/inbound-audit.toml")
    assert output in PAGE
