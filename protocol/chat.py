"""What a chat request may hold, whichever transport brings it."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from protocol.text import storable

MAX_MESSAGE_CHARS = 32_000
MAX_NEW_TOKENS = 8_192
MAX_TEMPERATURE = 2.0
MAX_REQUEST_ID_CHARS = 64
MAX_TURN = 999_999_999


def _made_storable(value: Any) -> Any:
    return storable(value) if isinstance(value, str) else value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "Input should hold more than white space")
    return value


_Storable = BeforeValidator(_made_storable)
Text = Annotated[str, _Storable]
# Lengths are said before the validator, though it runs first: behind one, pydantic does not know
# that it counts characters, and would speak of items.
Message = Annotated[str, Field(max_length=MAX_MESSAGE_CHARS), _Storable, AfterValidator(_not_blank)]
RequestId = Annotated[str, Field(min_length=1, max_length=MAX_REQUEST_ID_CHARS), _Storable]
TurnNumber = Annotated[int, Field(ge=1, le=MAX_TURN)]
OptionalRequestId = Annotated[
    RequestId | None,
    Field(
        description="Chosen by the client. The same id with the same content in the same session"
        " is the same request, and is done once however often it is sent."
    ),
]


class Model(BaseModel):
    """Fields that are not known are ignored: clients of the original send a few."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class GenerationFields(Model):
    """How the model is to answer; what is left out is as the server has it."""

    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] | None = Field(
        default=None, description="The most that the reply may have; the server may allow less."
    )
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)] | None = (
        Field(default=None, description="How freely words are chosen; 0: always the likeliest.")
    )
    do_sample: bool | None = Field(
        default=None, description="Whether words are drawn by lot; false: always the likeliest."
    )


class ChatFields(GenerationFields):
    """One user message, to be answered."""

    message: Message = Field(
        description="The text, with more in it than white space.",
        json_schema_extra={"pattern": r"\S"},
    )
    request_id: OptionalRequestId = None
    replaces: TurnNumber | None = Field(
        default=None,
        description="An edit: this turn hides the turns from that one on. Nothing is deleted.",
    )


class RegenerateFields(GenerationFields):
    """The same question asked again."""

    turn: TurnNumber | None = Field(
        default=None, description="Which one to ask again; left out: the last."
    )
    request_id: OptionalRequestId = None
