"""The settings of who may use the gateway, and from where. Errors never show what is secret."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from gateway.auth.api_keys import parse_keys
from gateway.auth.opening import check_combination
from gateway.hosts import Hosts, is_local
from gateway.limits.addresses import Proxies
from gateway.origins import read_origin

Listed = Annotated[tuple[str, ...], NoDecode]


class AccessSettings(BaseModel):
    """Without API keys and without tokens everybody is anonymous."""

    host: str = "127.0.0.1"
    allow_anonymous: bool = False
    cors_origins: Listed = ()
    allowed_hosts: Listed = ()
    trusted_proxies: Listed = ()

    default_owner: str = ""
    api_keys: Annotated[Listed, Field(repr=False)] = ()
    api_keys_file: Path | None = None
    jwt_issuer: str = ""
    jwt_audience: str = ""
    jwt_secret: Annotated[str, Field(repr=False)] = ""
    jwt_public_key_file: Path | None = None
    jwt_jwks_url: str = ""

    @property
    def on_loopback(self) -> bool:
        """Whether it listens on this machine alone, by a name or an address that means it."""
        return is_local(self.host)

    @property
    def is_private(self) -> bool:
        """Whether nobody but this machine is to reach the gateway, through a proxy neither."""
        return self.on_loopback and not self.trusted_proxies and all(map(is_local, self._names))

    @property
    def _names(self) -> list[str]:
        return [name.removeprefix("*.").strip("[]") for name in self.allowed_hosts]

    @property
    def authenticates(self) -> bool:
        """Whether there is a way to prove who one is."""
        tokens = self.jwt_secret or self.jwt_public_key_file or self.jwt_jwks_url
        return bool(self.api_keys or self.api_keys_file or tokens)

    @field_validator("cors_origins", "allowed_hosts", "trusted_proxies", "api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("api_keys_file", "jwt_public_key_file", mode="before")
    @classmethod
    def _no_file(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        origins = tuple(origin.rstrip("/") for origin in value)
        for origin in origins:
            if origin != "*" and read_origin(origin) is None:
                raise ValueError(f"{origin} is no origin such as https://chat.example.org")
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Hosts(value, host="")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Proxies(value)
        return value

    @field_validator("api_keys")
    @classmethod
    def _are_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(parse_keys(value)) < len(value):
            raise ValueError("each part should be a line that `key create` prints")
        return value

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        check_combination(
            jwt_issuer=self.jwt_issuer,
            jwt_audience=self.jwt_audience,
            jwt_secret=self.jwt_secret,
            jwt_public_key_file=self.jwt_public_key_file,
            jwt_jwks_url=self.jwt_jwks_url,
            default_owner=self.default_owner,
        )
        if not (self.is_private or self.authenticates or self.allow_anonymous):
            raise ValueError(
                f"{self._reached_by} can be reached from other machines, and there is no"
                " authentication; set API_KEYS, API_KEYS_FILE or one of the JWT settings,"
                " or say ALLOW_ANONYMOUS=true"
            )
        return self

    @property
    def _reached_by(self) -> str:
        if not self.on_loopback:
            return f"HOST: {self.host}"
        proxies = "TRUSTED_PROXIES: a gateway behind a proxy"
        return proxies if self.trusted_proxies else "ALLOWED_HOSTS: a gateway of such a name"
