"""What a client may ask for, as JSON: strict, so that nothing that would change the answer is ignored."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from pythia_quant.artifacts.pieces import Wish
from pythia_quant.runtimes.sampling import HIGHEST_TEMPERATURE, Sampling
from pythia_quant.serve.refusals import Refusal

MOST_CHOICES = 256
"""The most texts that one request may ask for: prompts times n."""
_MOST_TOKENS = 10_000_000

Count = Annotated[int, Field(ge=0, le=_MOST_TOKENS)]
Token = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Zero = Annotated[float, Field(ge=0, le=0)]


class StreamOptions(BaseModel):
    """What a stream has beside the text."""

    model_config = ConfigDict(strict=True, extra="forbid")

    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class Ask(BaseModel):
    """What requests for completions and for chats have in common. Fields that are not handled must be neutral."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=HIGHEST_TEMPERATURE)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_MOST_TOKENS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: str | None = None

    def sampling(self) -> Sampling:
        """Return how tokens are chosen. Without a seed, a request is sampled as none before."""
        seed = secrets.randbits(63) if self.seed is None else self.seed % 2**64
        temperature = 1.0 if self.temperature is None else self.temperature
        top_k = 0 if self.top_k in (None, -1) else self.top_k or 0
        return Sampling(temperature, top_k, 1.0 if self.top_p is None else self.top_p, seed)

    def stops(self) -> tuple[str, ...]:
        """Return the stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def wish(self, count: int, alternatives: int | None) -> Wish:
        """Return what is wanted of each choice."""
        return Wish(count, self.sampling(), self.stops(), alternatives, self.ignore_eos)


class CompletionRequest(Ask):
    """The body of ``POST /v1/completions``."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1)]
    )
    max_tokens: Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: None = None
    best_of: int | None = None

    @field_validator("logprobs", mode="before")
    @classmethod
    def _no_logprobs(cls, value: Any) -> Any:
        return None if value is False else value

    def prompts(self) -> list[str] | list[list[int]]:
        """Return the prompts, each a text or tokens."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        first: Any = self.prompt[0]
        return [self.prompt] if isinstance(first, int) else self.prompt  # type: ignore[return-value]


class ContentPart(BaseModel):
    """A part of a message; only text is understood."""

    model_config = ConfigDict(strict=True, extra="forbid")

    type: Annotated[str, Field(pattern="^text$")]
    text: str


class Message(BaseModel):
    """A message of a chat."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[ContentPart]
    name: str | None = None

    def data(self) -> dict[str, str]:
        """Return the message as chat templates read it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text} | ({"name": self.name} if self.name else {})


class ChatRequest(Ask):
    """The body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


A = TypeVar("A", bound=Ask)


def parse(kind: type[A], body: bytes) -> A:
    """Return a request.

    Raises:
        Refusal: the body is not JSON in UTF-8, or not such a request.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        if first["type"] == "json_invalid":
            raise Refusal(400, f"the body is not JSON in UTF-8: {first['msg']}", code="invalid_json") from None
        # Of a union, each kind has its own complaint: the name of the field says enough.
        name = str(first["loc"][0]) if first["loc"] else "the body"
        if first["type"] == "extra_forbidden":
            where = ".".join(map(str, first["loc"]))
            raise Refusal(400, f"{where[:80]} is not a parameter of this server", parameter=where[:80]) from None
        several = sum(one["loc"][:1] == first["loc"][:1] for one in error.errors(include_url=False)) > 1
        what = "is of a wrong type or out of range" if several else first["msg"][:1].lower() + first["msg"][1:]
        raise Refusal(400, f"{name}: {what}", parameter=name, code="invalid_value") from None
