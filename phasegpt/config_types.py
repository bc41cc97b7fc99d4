"""What the sections of the schema are made of: the strict frozen base and the checked kinds of value."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, WrapValidator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from phasegpt.key_paths import KeyPath

Problems = Iterator[tuple[str | KeyPath, str]]
"""(key of the section or path from it, what is wrong) for each combination that cannot run."""


def expected(text: str) -> WrapValidator:
    """Says `text` for whatever is wrong with a value; keeps the branches of a union out of the error's path."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            raise PydanticCustomError("literal_error", "", {"expected": text}) from error

    return WrapValidator(check)


def refused(title: str, problems: list[tuple[str | KeyPath, str]]) -> ValidationError:
    """A pydantic error with one entry for each (key or path, message)."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("combination", "{message}", {"message": message}),
            loc=(key,) if isinstance(key, str) else key,
            input=None,
        )
        for key, message in problems
    ]
    return ValidationError.from_exception_data(title, details)


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Strict(False)]
Layer = Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=r"^0?\.[0-9]+$")]
PhaseLayers = Annotated[
    tuple[Layer, ...], Strict(False), expected('a list of layer numbers or fractions of the depth, as [7] or ["0.3"]')
]
LoraLayers = Annotated[
    Annotated[tuple[Annotated[int, Field(ge=0)], ...], Strict(False)] | Literal["upper_third"] | None,
    expected("a list of layer numbers, upper_third or null"),
]
Strata = Annotated[tuple[Literal["domain", "complexity", "subtlety"], ...], Strict(False)]


class Part(BaseModel):
    """A section of the schema: frozen, strictly typed, unknown keys refused; null means all defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _combination_can_run(self) -> Self:
        if problems := list(self.problems()):
            raise refused(type(self).__name__, problems)
        return self

    def problems(self) -> Problems:
        """The combinations of this section's keys that cannot run."""
        yield from ()
