"""The settings of the model servers: where they are, what they speak, how patient to be."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from llm.call import encode, server_url

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]

MAX_SERVERS = 64
MIDM_CALLS = 1
"""midm blocks on one call, so one it gets."""
ENGINE_CALLS = 32
"""Well below what vLLM runs at once (256), and enough to use most of what batching gains."""
SIMULATED_CALLS = 64
MIDM_COOL_DOWN_S = 5.0
"""midm does not notice that nobody listens; OpenAI-compatible engines stop at once."""

_OURS = (
    *("model", "messages", "stream", "stream_options", "temperature", "n"),
    *("max_tokens", "max_completion_tokens"),
)


class ModelSettings(BaseModel):
    """Without an address the built-in simulated model answers; it speaks both wires."""

    llm_server_url: Annotated[str, Field(repr=False)] = ""
    llm_api: Literal["midm", "openai"] = "midm"
    llm_model: Annotated[str, Field(max_length=256, pattern=r"^[!-~]*$")] = ""
    llm_api_key: Annotated[str, Field(repr=False)] = ""
    llm_extra_body: Annotated[str, Field(max_length=16_384)] = ""
    llm_max_concurrency: Count | None = None
    llm_max_waiting: Annotated[int, Field(ge=0, le=1_000_000)] = 1_000
    llm_connect_timeout_s: Seconds = 5
    llm_first_token_timeout_s: Seconds = 120
    llm_silence_timeout_s: Seconds = 120
    llm_reply_timeout_s: Seconds = 300
    llm_cool_down_s: Annotated[float, Field(ge=0, le=3_600)] | None = None

    @field_validator("llm_server_url")
    @classmethod
    def _are_http(cls, value: str) -> str:
        if not value.strip():
            return ""
        servers = [each.strip().rstrip("/") for each in value.split(",")]
        if len(servers) > MAX_SERVERS:
            raise ValueError(f"should be at most {MAX_SERVERS} addresses")
        places: list[tuple[object, ...]] = []
        for number, each in enumerate(servers, 1):
            # An address may hold a password: what is wrong is told by its place.
            which = f"; number {number} of {len(servers)} is not" if len(servers) > 1 else ""
            try:
                url = server_url(each)
            except ValueError:
                says = "should be a URL such as http://127.0.0.1:8000, or several with commas"
                raise ValueError(f"{says} between, or empty{which}") from None
            path = url.raw_path.rstrip(b"/").removesuffix(b"/v1")
            place = (url.scheme, url.host, url.port, path)
            if place in places:
                first = places.index(place) + 1
                raise ValueError(f"should name each server once; {first} and {number} are the same")
            places.append(place)
        return ",".join(servers)

    @field_validator("llm_api_key")
    @classmethod
    def _fits_a_header(cls, value: str) -> str:
        value = value.strip()
        if len(value) > 4_096 or any(not "!" <= letter <= "~" for letter in value):
            raise ValueError("should be at most 4096 letters, digits and signs of ASCII, no spaces")
        return value

    @field_validator("llm_extra_body")
    @classmethod
    def _is_an_object(cls, value: str) -> str:
        if value.strip():
            _ = _object(value)
        return value.strip()

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.llm_api != "openai":
            for name in ("llm_model", "llm_extra_body"):
                if getattr(self, name):
                    raise ValueError(f"{name}: needs LLM_API=openai, midm takes none")
        if self.llm_api_key and any(server_url(each).userinfo for each in self.llm_servers):
            raise ValueError("llm_api_key: the address in LLM_SERVER_URL holds a password already")
        return self

    @property
    def simulated(self) -> bool:
        """Whether the built-in simulated model answers, for want of a real one."""
        return not self.llm_server_url

    @property
    def llm_servers(self) -> list[str]:
        """The addresses of the model servers; none if the simulated one answers."""
        return self.llm_server_url.split(",") if self.llm_server_url else []

    @property
    def llm_server_host(self) -> str:
        """Where the model server is, without port and path; empty if there are several."""
        hosts = {server_url(each).host for each in self.llm_servers} or {"127.0.0.1"}
        return hosts.pop() if len(hosts) == 1 else ""

    @property
    def model_name(self) -> str:
        """What the model is called where that has to be said without asking its server."""
        return "simulated" if self.simulated else self.llm_model or self.llm_api

    @property
    def extra_body(self) -> dict[str, Any]:
        """What goes into each request to an OpenAI-compatible server."""
        return _object(self.llm_extra_body) if self.llm_extra_body else {}

    @property
    def calls_per_server(self) -> int:
        """How many calls each model server gets at once."""
        if self.llm_max_concurrency is not None:
            return self.llm_max_concurrency
        if self.simulated:
            return SIMULATED_CALLS
        return MIDM_CALLS if self.llm_api == "midm" else ENGINE_CALLS

    @property
    def max_calls(self) -> int:
        """How many calls all model servers together get at once."""
        return self.calls_per_server * max(len(self.llm_servers), 1)

    @property
    def cool_down_s(self) -> float:
        """How long a call that was given up still keeps the model busy."""
        if self.llm_cool_down_s is not None:
            return self.llm_cool_down_s
        return 0.0 if self.simulated or self.llm_api != "midm" else MIDM_COOL_DOWN_S


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
        _ = encode(found).encode()  # as each request is: not NaN, nor half a surrogate pair
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError('should be a JSON object such as {"top_k": 20}')
    if ours := [name for name in _OURS if name in found]:
        raise ValueError(f"should not set {ours[0]}, which the gateway sets itself")
    return found
