"""Settings: from the environment and from `.env`, safe by default, refused in one clear line."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.auth.opening import open_authenticator
from gateway.auth.tickets import MemoryTickets
from gateway.settings import BadSettings, Settings, database_place, load_settings
from llm.prompt import DEFAULT_SYSTEM_PROMPT

ROOT = Path(__file__).parents[2]

KEY = "abcdefgh:" + "a1" * 32
OTHER_KEY = "hgfedcba:" + "b2" * 32

# Every setting, with a value that is not its default: as it is written, and as it is understood.
WRITTEN: dict[str, tuple[str, Any]] = {
    "HOST": ("0.0.0.0", "0.0.0.0"),
    "ALLOW_ANONYMOUS": ("true", True),
    "PORT": ("9000", 9000),
    "DEBUG": ("true", True),
    "LOG_FORMAT": ("json", "json"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("http://collector:4318", "http://collector:4318"),
    "OTEL_SERVICE_NAME": ("chat", "chat"),
    "METRICS": ("all", "all"),
    "METRICS_TOKEN": ("m" * 16, "m" * 16),
    "CORS_ORIGINS": (
        "http://a.example, https://b.example/",
        ("http://a.example", "https://b.example"),
    ),
    "ALLOWED_HOSTS": ("chat.example, *.b.example", ("chat.example", "*.b.example")),
    "TRUSTED_PROXIES": ("10.0.0.7, fd00::/8", ("10.0.0.7", "fd00::/8")),
    "DEFAULT_OWNER": ("key:alice", "key:alice"),
    "API_KEYS": (f"alice:{KEY}, bob:{OTHER_KEY}", (f"alice:{KEY}", f"bob:{OTHER_KEY}")),
    "API_KEYS_FILE": ("keys.txt", Path("keys.txt")),
    "JWT_ISSUER": ("https://id.example", "https://id.example"),
    "JWT_AUDIENCE": ("chat", "chat"),
    "JWT_SECRET": ("s" * 40, "s" * 40),
    "JWT_PUBLIC_KEY_FILE": ("key.pem", Path("key.pem")),
    "JWT_JWKS_URL": ("https://id.example/jwks.json", "https://id.example/jwks.json"),
    "DATABASE_URL": ("postgresql://db/chat", "postgresql://db/chat"),
    "DATABASE_CONNECTIONS": ("4", 4),
    "BROKER_URL": ("redis://cache:6380/1", "redis://cache:6380/1"),
    "BROKER_PREFIX": ("chat-2", "chat-2"),
    "NODE_NAME": ("north.1", "north.1"),
    "SESSION_TIMEOUT_HOURS": ("48", 48),
    "LLM_SERVER_URL": ("http://gpu:8000/", "http://gpu:8000"),
    "LLM_API": ("openai", "openai"),
    "LLM_MODEL": ("K-intelligence/Midm-2.0-Mini-Instruct", "K-intelligence/Midm-2.0-Mini-Instruct"),
    "LLM_API_KEY": ("sk-secret", "sk-secret"),
    "LLM_EXTRA_BODY": ("{ } ", "{ }"),
    "LLM_MAX_CONCURRENCY": ("3", 3),
    "LLM_MAX_WAITING": ("0", 0),
    "LLM_CONNECT_TIMEOUT_S": ("0.5", 0.5),
    "LLM_FIRST_TOKEN_TIMEOUT_S": ("11", 11),
    "LLM_SILENCE_TIMEOUT_S": ("12", 12),
    "LLM_REPLY_TIMEOUT_S": ("13", 13),
    "LLM_COOL_DOWN_S": ("0", 0),
    "TURN_TIMEOUT_S": ("14", 14),
    "SYSTEM_PROMPT": ("짧게 답하라.", "짧게 답하라."),
    "MAX_CONTEXT_MESSAGES": ("5", 5),
    "MAX_CONTEXT_CHARS": ("1000", 1000),
    "DEFAULT_MAX_TOKENS": ("64", 64),
    "DEFAULT_TEMPERATURE": ("0", 0),
    "DEFAULT_DO_SAMPLE": ("false", False),
    "MAX_ATTEMPTS": ("1", 1),
    "RERUN_WITHIN_S": ("15", 15),
    "DRAIN_SECONDS": ("0", 0),
    "HEARTBEAT_S": ("16", 16),
    "MAX_FRAME_BYTES": ("8192", 8192),
    "MAX_BODY_BYTES": ("8193", 8193),
    "MAX_UNAUTHENTICATED_FRAME_BYTES": ("1024", 1_024),
    "MAX_HEADER_BYTES": ("8194", 8_194),
    "HEADER_TIMEOUT_S": ("17", 17),
    "BODY_TIMEOUT_S": ("18", 18),
    "AUTH_TIMEOUT_S": ("19", 19),
    "MAX_MESSAGE_CHARS": ("20", 20),
    "MAX_REPLY_TOKENS": ("1000", 1_000),
    "MAX_METADATA_BYTES": ("22", 22),
    "MAX_JSON_DEPTH": ("23", 23),
    "MAX_SESSIONS": ("24", 24),
    "MAX_OPEN_TURNS": ("25", 25),
    "MAX_QUEUED_TURNS": ("26", 26),
    "MAX_CONNECTIONS": ("27", 27),
    "MAX_CONNECTIONS_PER_PRINCIPAL": ("28", 28),
    "MAX_CONNECTIONS_PER_ADDRESS": ("29", 29),
    "MAX_UNAUTHENTICATED": ("30", 30),
    "HANDSHAKES_PER_MINUTE": ("31", 31),
    "SESSIONS_PER_MINUTE": ("32", 32),
    "MESSAGES_PER_MINUTE": ("33", 33),
}
TOGETHER = [
    ("DATABASE_URL", "BROKER_URL"),
    ("HOST", "ALLOWED_HOSTS", "TRUSTED_PROXIES", "ALLOW_ANONYMOUS"),
    ("JWT_ISSUER", "JWT_AUDIENCE", "JWT_SECRET"),
    ("JWT_PUBLIC_KEY_FILE", "JWT_ISSUER", "JWT_AUDIENCE"),
    ("JWT_JWKS_URL", "JWT_ISSUER", "JWT_AUDIENCE"),
    ("LLM_MODEL", "LLM_API"),
    ("LLM_EXTRA_BODY", "LLM_API"),
]
"""One without the others is refused."""

INSTEAD = ("JWT_PUBLIC_KEY_FILE", "JWT_JWKS_URL")
"""What makes no sense beside `JWT_SECRET`."""


def together_with(name: str) -> tuple[str, ...]:
    """The settings that go with one, itself among them."""
    return next((names for names in TOGETHER if name in names), (name,))


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, without an `.env`."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_setting_is_tried_here() -> None:
    assert set(WRITTEN) == {name.upper() for name in Settings.model_fields}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_setting_is_read_from_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = WRITTEN[name]
    default = getattr(load_settings(), name.lower())
    for name_to_set in together_with(name):
        monkeypatch.setenv(name_to_set, WRITTEN[name_to_set][0])
    assert getattr(load_settings(), name.lower()) == expected != default


def test_all_settings_are_read_from_dot_env(somewhere: Path) -> None:
    given = {name: both for name, both in WRITTEN.items() if name not in INSTEAD}
    lines = [f'{name}="{written}"\n' for name, (written, _) in given.items()]
    (somewhere / ".env").write_text("# a comment\n" + "".join(lines) + "UNKNOWN=1\n")
    settings = load_settings()
    read = {name: getattr(settings, name.lower()) for name in given}
    assert read == {name: expected for name, (_, expected) in given.items()}


def test_the_environment_wins_over_dot_env(
    somewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (somewhere / ".env").write_text("PORT=1111\nNODE_NAME=file\n")
    monkeypatch.setenv("PORT", "2222")
    assert (load_settings().port, load_settings().node_name) == (2222, "file")


def test_without_any_setting_the_simulated_model_answers_on_this_machine_alone() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.simulated
    assert settings.database_path == Path("chatbot.db")
    assert settings.session_timeout_hours == 0
    assert settings.max_attempts == 3
    assert settings.system_prompt == DEFAULT_SYSTEM_PROMPT


@pytest.mark.parametrize(
    ("url", "calls", "cool_down_s"),
    [("http://gpu:8000", 1, 5.0), ("", 64, 0.0)],
)
def test_a_real_model_gets_one_call_at_a_time_and_cools_down(
    url: str, calls: int, cool_down_s: float
) -> None:
    settings = load_settings(llm_server_url=url)
    assert (settings.max_calls, settings.cool_down_s) == (calls, cool_down_s)
    told = load_settings(llm_server_url=url, llm_max_concurrency=2, llm_cool_down_s=0)
    assert (told.max_calls, told.cool_down_s) == (2, 0)


def test_an_openai_compatible_engine_gets_many_calls_and_does_not_cool_down() -> None:
    settings = load_settings(llm_server_url="http://gpu:8000", llm_api="openai")
    assert (settings.max_calls, settings.cool_down_s) == (32, 0)


def test_several_servers_get_as_many_calls_each() -> None:
    settings = load_settings(llm_server_url="http://a:1, http://b:1/v1/", llm_max_concurrency=3)
    assert settings.llm_servers == ["http://a:1", "http://b:1/v1"]
    assert (settings.calls_per_server, settings.max_calls) == (3, 6)


@pytest.mark.parametrize(
    ("urls", "says"),
    [
        ("http://a:1,http://a:1/", "1 and 2 are the same"),
        ("http://u:hush@a,http://b,http://v:hush@A:80/v1", "1 and 3 are the same"),
        ("http://u:hush@a,b:8000", "number 2 of 2 is not"),
        ("http://u:hush@a,", "number 2 of 2 is not"),
        ("ftp://u:hush@a", "such as http://"),
        (",".join(f"http://a:{port}" for port in range(1, 66)), "at most 64"),
    ],
)
def test_servers_that_cannot_be_are_told_by_their_place_alone(urls: str, says: str) -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(llm_server_url=urls)
    assert str(refused.value).startswith("LLM_SERVER_URL: ")
    assert says in str(refused.value)
    assert "hush" not in str(refused.value)


def test_a_key_of_a_model_server_is_shown_nowhere() -> None:
    settings = load_settings(llm_server_url="http://a:1", llm_api_key=" sk-hush ")
    assert settings.llm_api_key == "sk-hush"
    assert "hush" not in repr(settings) + str(settings)
    for key in ("sk hush", "sk-hush\r\nX: y", "sk-höush"):
        with pytest.raises(BadSettings) as refused:
            load_settings(llm_api_key=key)
        assert str(refused.value).startswith("LLM_API_KEY: ")
        assert "hush" not in str(refused.value)
    with pytest.raises(BadSettings, match=r"LLM_API_KEY.*LLM_SERVER_URL") as refused:
        load_settings(llm_api_key="sk-hush", llm_server_url="http://u:hush@a")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("[1]", "JSON object"),
        ("{", "JSON object"),
        # What json reads, and no request could be written with.
        ('{"top_p": NaN}', "JSON object"),
        ('{"stop": "\\ud800"}', "JSON object"),
        ('{"model": "x"}', "model"),
        ('{"stream": false}', "stream"),
        ('{"max_tokens": 1}', "max_tokens"),
    ],
)
def test_what_is_sent_beside_a_prompt_is_an_object_of_other_fields(given: str, says: str) -> None:
    settings = load_settings(llm_api="openai", llm_extra_body=' {"top_k": 20, "top_p": 0.75} ')
    assert settings.extra_body == {"top_k": 20, "top_p": 0.75}
    assert load_settings().extra_body == {}
    with pytest.raises(BadSettings, match=f"^LLM_EXTRA_BODY: .*{says}"):
        load_settings(llm_api="openai", llm_extra_body=given)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("chat.db", "chat.db"),
        ("data/chat.db", "data/chat.db"),
        ("/var/lib/chat.db", "/var/lib/chat.db"),
        ("sqlite:///chat.db", "chat.db"),
        ("sqlite:///./data/chat.db", "data/chat.db"),
        ("sqlite:////var/lib/chat.db", "/var/lib/chat.db"),
        ("sqlite+aiosqlite:///chat.db", "chat.db"),
        ("sqlite:///with%20space.db", "with space.db"),
        # `databases` would open a file of that odd name.
        ("sqlite:///chat.db?timeout=5", "chat.db"),
    ],
)
def test_the_database_is_a_file_or_a_sqlite_url(url: str, path: str) -> None:
    assert load_settings(database_url=url).database_path == Path(path)


BAD = [
    ("PORT", "70000"),
    ("PORT", "http"),
    ("DEBUG", "perhaps"),
    ("CORS_ORIGINS", "chat.example.org"),
    ("CORS_ORIGINS", "https://chat.example.org/page"),
    ("DATABASE_URL", ""),
    ("DATABASE_URL", "sqlite://"),
    ("DATABASE_URL", "sqlite:///:memory:"),
    ("DATABASE_URL", ":memory:"),
    ("DATABASE_URL", "mysql://localhost/chat"),
    ("DATABASE_URL", "postgresql://localhost/chat"),
    ("DATABASE_CONNECTIONS", "1"),
    ("BROKER_URL", "redis://localhost"),
    ("BROKER_URL", "amqp://localhost"),
    ("BROKER_PREFIX", ""),
    ("BROKER_PREFIX", "a:b"),
    ("NODE_NAME", "a b"),
    ("SESSION_TIMEOUT_HOURS", "1"),
    ("SESSION_TIMEOUT_HOURS", "-1"),
    ("LLM_SERVER_URL", "gpu:8000"),
    ("LLM_SERVER_URL", "http://"),
    ("LLM_SERVER_URL", "http://gpu:8000?key=x"),
    ("LLM_SERVER_URL", "http://gpu:8000/#x"),
    ("LLM_API", "ollama"),
    ("LLM_API_KEY", "a b"),
    ("LLM_MODEL", "a b"),
    ("LLM_MODEL", "midm"),
    ("LLM_EXTRA_BODY", "{}"),
    ("LLM_MAX_CONCURRENCY", "0"),
    ("LLM_FIRST_TOKEN_TIMEOUT_S", "0"),
    ("TURN_TIMEOUT_S", "inf"),
    ("TURN_TIMEOUT_S", "nan"),
    # How Python spells a byte of the environment that is no UTF-8.
    ("SYSTEM_PROMPT", "\udcff"),
    ("MAX_CONTEXT_MESSAGES", "0"),
    ("DEFAULT_MAX_TOKENS", "0"),
    ("DEFAULT_TEMPERATURE", "3"),
    ("MAX_ATTEMPTS", "0"),
    ("HEARTBEAT_S", "-5"),
    ("MAX_FRAME_BYTES", "10"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_that_cannot_be_is_refused_in_one_line_that_names_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings) as refused:
        load_settings()
    line = str(refused.value)
    assert "\n" not in line
    assert name in line
    assert "pydantic" not in line


@pytest.mark.parametrize(
    ("database_url", "broker_url", "missing"),
    [
        ("chat.db", "redis://:hush@cache", "DATABASE_URL"),
        ("postgresql://midm:hush@db/chat", "", "BROKER_URL"),
        ("postgresql://midm:hush@db/chat", "amqp://midm:hush@cache", "redis://"),
        ("postgresql://midm:hush@db/chat", "redis://:hush@cache:port", "BROKER_URL"),
        ("postgresql://midm:hush@db/chat", "redis://:hush@cache/0?bogus=1", "BROKER_URL"),
    ],
)
def test_a_gateway_is_alone_or_one_of_many_and_nothing_in_between(
    database_url: str, broker_url: str, missing: str
) -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(database_url=database_url, broker_url=broker_url)
    assert missing in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_one_of_many_has_a_server_of_each_kind(scheme: str) -> None:
    settings = load_settings(
        database_url="postgresql://midm:hush@db/chat", broker_url=f"{scheme}://cache"
    )
    assert settings.shared
    assert not load_settings().shared


def test_packages_that_a_server_needs_and_are_not_there_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.settings.find_spec", lambda package: None)
    with pytest.raises(BadSettings, match=r"DATABASE_URL.*pip install.*\[scale\]"):
        load_settings(database_url="postgresql://db/chat", broker_url="redis://cache")
    with pytest.raises(BadSettings, match=r"pip install"):
        database_place("postgresql://db/chat")
    assert load_settings().database_path == Path("chatbot.db")


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("HEARTBEAT_S", "y")
    with pytest.raises(BadSettings, match=r"PORT.*'x'.*HEARTBEAT_S.*'y'"):
        load_settings()


@pytest.mark.parametrize(("name", "value"), [("PORT", "http"), ("DATABASE_URL", "mysql://x/y")])
def test_the_process_says_it_in_one_line_and_exits_with_2(
    name: str, value: str, somewhere: Path
) -> None:
    environment = {**os.environ, name: value, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-m", "gateway"],
        cwd=somewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert line.startswith("midm-gateway: ")
    assert name in line


def test_a_dot_env_that_is_no_text_is_refused_too(somewhere: Path) -> None:
    (somewhere / ".env").write_bytes("SYSTEM_PROMPT=한국어".encode("euc-kr"))
    with pytest.raises(BadSettings, match=r"\.env"):
        load_settings()


@pytest.mark.parametrize(
    "given",
    [
        *({"api_keys": f"#alice:{KEY}"}, {"api_keys": f"alice:{KEY},#x"}),
        *({"cors_origins": "https://"}, {"cors_origins": "https://a.example?x=1"}),
        *({"default_owner": "key:"}, {"default_owner": "alice"}),
        {"max_unauthenticated_frame_bytes": 8_192, "max_frame_bytes": 4_096},
        {"max_reply_tokens": 10, "default_max_tokens": 11},
    ],
    ids=str,
)
def test_what_would_do_nothing_or_too_much_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(BadSettings) as refused:
        load_settings(**given)
    assert str(refused.value).partition(":")[0] in {name.upper() for name in given}
    assert "alice:" not in str(refused.value)


@pytest.mark.parametrize("keys", ["", f"alice:{KEY}"])
@pytest.mark.parametrize("file", [None, "keys.txt"])
async def test_what_asks_who_they_are_is_a_lock_even_if_no_key_opens_it(
    somewhere: Path, keys: str, file: str | None
) -> None:
    (somewhere / "keys.txt").write_text("# nobody any more\n")
    settings = load_settings(api_keys=keys, api_keys_file=file)
    async with open_authenticator(
        api_keys=settings.api_keys,
        api_keys_file=settings.api_keys_file,
        jwt_issuer="",
        jwt_audience="",
        jwt_secret="",
        jwt_public_key_file=None,
        jwt_jwks_url="",
        allow_anonymous=False,
        default_owner="",
        tickets=MemoryTickets(),
    ) as (authenticator, _):
        assert settings.authenticates == authenticator.configured == bool(keys or file)
