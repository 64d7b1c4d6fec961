"""The settings: the only reader of the environment and of `.env`.

The names are those of the original backend where it has them. `gateway/README.md` documents every
one; a test holds the two together.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import unquote

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.access_settings import AccessSettings
from gateway.auth.credentials import is_token
from gateway.limit_settings import LimitSettings
from gateway.model_settings import Count, ModelSettings, Seconds
from llm.call import server_url
from llm.prompt import DEFAULT_SYSTEM_PROMPT
from protocol.chat import MAX_NEW_TOKENS, MAX_TEMPERATURE
from protocol.text import storable
from storage.database import SERVER_SCHEMES as POSTGRESQL

Loaded = TypeVar("Loaded", bound=BaseSettings)

REDIS = ("redis://", "rediss://", "unix://")

# A URL may hold a password; one that cannot be read may hold it anywhere.
_SECRET = (
    *("api_keys", "jwt_secret", "llm_server_url", "llm_api_key", "metrics_token"),
    "otel_exporter_otlp_endpoint",
)

MIN_SESSION_HOURS = 24
"""The original's web client breaks when the session it remembers is gone."""


class BadSettings(Exception):
    """A setting cannot be used; the text is one line that says which and why."""


class Settings(AccessSettings, LimitSettings, ModelSettings, BaseSettings):
    """How a gateway is run."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    debug: bool = False
    log_format: Literal["text", "json"] = "text"
    metrics: Literal["off", "local", "all"] = "local"
    metrics_token: Annotated[str, Field(repr=False)] = ""
    otel_exporter_otlp_endpoint: Annotated[str, Field(repr=False)] = ""
    otel_service_name: Annotated[str, Field(min_length=1, max_length=255)] = "midm-chat-gateway"

    database_url: str = "chatbot.db"
    database_connections: Annotated[int, Field(ge=2, le=1_000)] = 10
    broker_url: str = ""
    broker_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = "midm"
    node_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}$")] = ""
    session_timeout_hours: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = 0

    turn_timeout_s: Seconds = 600

    system_prompt: str = DEFAULT_SYSTEM_PROMPT
    max_context_messages: Count = 10
    max_context_chars: Count = 32_000
    default_max_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = 512
    default_temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE)] = 0.7
    default_do_sample: bool = True

    max_attempts: Count = 3
    rerun_within_s: Seconds = 600
    drain_seconds: Annotated[float, Field(ge=0, le=86_400)] = 20

    heartbeat_s: Seconds = 25

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _is_collector(cls, value: str) -> str:
        if not value:
            return value
        try:
            server_url(value)
        except ValueError:
            raise ValueError("should be a URL such as http://127.0.0.1:4318, or empty") from None
        if any(find_spec(name) is None for name in ("opentelemetry", "requests")):
            install = "pip install 'midm-chat-gateway[otel]'"
            raise ValueError(f"needs more packages: {install}")
        return value

    @field_validator("system_prompt")
    @classmethod
    def _is_text(cls, value: str) -> str:
        # Bytes that are no UTF-8 arrive as lone surrogates, which no model server is ever sent.
        if storable(value) != value:
            raise ValueError("should be text in UTF-8")
        return value

    @field_validator("metrics_token")
    @classmethod
    def _is_token(cls, value: str) -> str:
        if value and (len(value) < 16 or not is_token(value)):
            raise ValueError("should be at least 16 letters, digits and any of . _ ~ + / -")
        return value

    @field_validator("session_timeout_hours")
    @classmethod
    def _is_long(cls, value: float) -> float:
        if 0 < value < MIN_SESSION_HOURS:
            raise ValueError(f"should be 0 (never) or at least {MIN_SESSION_HOURS}")
        return value

    @model_validator(mode="after")
    def _is_alone_or_not(self) -> Self:
        # Their values may hold a password: nothing here repeats what was given.
        on_server = self.database_url.startswith(POSTGRESQL)
        if self.broker_url and not self.broker_url.startswith(REDIS):
            raise ValueError(f"broker_url should begin with {_one_of(REDIS)}")
        if self.broker_url and not on_server:
            raise ValueError(f"broker_url needs a database_url that begins with {POSTGRESQL[0]}")
        if on_server and not self.broker_url:
            raise ValueError("database_url names a server; that needs a broker_url beside it")
        if on_server:
            _check_packages()
            _check_broker(self.broker_url)
        else:
            _ = self.database_path
        return self

    @model_validator(mode="after")
    def _says_no_more_than_it_may(self) -> Self:
        if self.default_max_tokens > self.max_reply_tokens:
            raise ValueError("default_max_tokens: should not be more than MAX_REPLY_TOKENS")
        if self.max_unauthenticated_frame_bytes > self.max_frame_bytes:
            says = "should not be more than MAX_FRAME_BYTES"
            raise ValueError(f"max_unauthenticated_frame_bytes: {says}")
        return self

    @property
    def shared(self) -> bool:
        """Whether other nodes may use the same database."""
        return bool(self.broker_url)

    @property
    def database_path(self) -> Path:
        """The SQLite file: from `sqlite:///relative.db`, `sqlite:////absolute.db` or a name."""
        return _file_of(self.database_url)


class ClientSettings(BaseSettings):
    """What a client of a gateway takes from the environment; see `gateway.talk`."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True
    )

    midm_url: str = ""
    midm_key: Annotated[str, Field(repr=False)] = ""
    port: int = 8080
    no_color: str = ""
    term: str = ""

    @property
    def url(self) -> str:
        """Where the gateway is: as told, or on this machine at the port that it would listen on."""
        return self.midm_url or f"http://127.0.0.1:{self.port or 8080}"


def load_settings(**overrides: object) -> Settings:
    """Read the settings; raise `BadSettings` with one line that names what is wrong.

    `overrides` go before what is in the environment; None says nothing.
    """
    return _load(Settings, {name: value for name, value in overrides.items() if value is not None})


def load_client_settings() -> ClientSettings:
    """Read what a client takes from the environment; raises `BadSettings`."""
    return _load(ClientSettings, {})


def _load(kind: type[Loaded], overrides: dict[str, object]) -> Loaded:
    try:
        return kind(**overrides)  # type: ignore[arg-type]  # pydantic judges them
    except ValidationError as error:
        raise BadSettings("; ".join(map(_sentence, error.errors()))) from None
    except UnicodeDecodeError:
        raise BadSettings(".env: should be text in UTF-8") from None
    except OSError as error:
        raise BadSettings(f".env: cannot be read: {error.strerror}") from None


def database_place(url: str) -> str | Path:
    """Say where a database is: a server's URL, or a file; raises `BadSettings`."""
    try:
        if not url.startswith(POSTGRESQL):
            return _file_of(url)
        _check_packages()
    except ValueError as error:
        raise BadSettings(str(error).replace("database_url", "a database")) from None
    return url


def _check_broker(url: str) -> None:
    # Only here: a gateway that is alone needs none of its packages.
    from gateway.nodes.link import check_url

    try:
        check_url(url)
    except ValueError as error:
        raise ValueError(f"broker_url: {error}") from None


def _check_packages() -> None:
    if any(find_spec(package) is None for package in ("asyncpg", "redis", "hiredis")):
        install = "pip install 'midm-chat-gateway[scale]'"
        raise ValueError(f"database_url names a server; that needs more packages: {install}")


def _file_of(url: str) -> Path:
    scheme, separator, rest = url.partition("://")
    if not separator:
        name = url
    elif scheme.split("+")[0] == "sqlite":
        name = unquote(rest.partition("?")[0].removeprefix("/"))
    else:
        begins = _one_of(("sqlite:///", *POSTGRESQL))
        raise ValueError(f"database_url should be a file name or begin with {begins}")
    if not name.strip() or name == ":memory:":
        raise ValueError("database_url should name a file: what is in memory would be lost")
    return Path(name)


def _sentence(finding: ErrorDetails) -> str:
    said = finding["msg"].removeprefix("Value error, ")
    if not finding["loc"]:
        return _NAMED.sub(lambda found: found[0].upper(), said)
    name = str(finding["loc"][0])
    says = f"{name.upper()}: {said[:1].lower()}{said[1:]}"
    return says if name in _SECRET else f"{says}, given {str(finding['input'])[:80]!r}"


_NAMED = re.compile(rf"\b({'|'.join(name for name in Settings.model_fields if '_' in name)})\b")
"""Settings that an error speaks of; it knows them by the names they have in code."""


def _one_of(beginnings: tuple[str, ...]) -> str:
    *others, last = beginnings
    return f"{', '.join(others)} or {last}"
