"""Fields of the requests: types, ranges, and how many names they may have."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hipie.errors import printable
from hipie.serve.bodies import Upload
from hipie.serve.errors import RequestError
from hipie.serve.settings import Limits
from hipie.vocabularies import parse_names, parse_parts

Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Coordinate = Annotated[float, Field(allow_inf_nan=False)]
Name = str | list[str]
Side = Annotated[int, Field(ge=0, le=1)]
Point = tuple[Coordinate, Coordinate] | tuple[Coordinate, Coordinate, Side]
Box = tuple[Coordinate, Coordinate, Coordinate, Coordinate]
# Levels of parts of parts in JSON.
MAX_LEVELS = 8


class Fields(BaseModel):
    """Fields of a request; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    def check(self, limits: Limits) -> None:
        """Check how many names, images or prompts there are.

        Raises:
            RequestError: 422, with the number and the limit.
        """

    def settings(self) -> dict[str, Any]:
        """The request without its images, for the `settings` of its result."""
        return self.model_dump(exclude={"image", "images"})


F = TypeVar("F", bound=Fields)


class SegmentFields(Fields):
    """Fields of `POST /segment`."""

    image: Upload
    things: str | list[Name] = Field("", description='"car; dog, puppy", or a list')
    stuff: str | list[Name] = Field("", description='"grass; sky", or a list')
    parts: str | dict[str, Any] = Field("", description='"car: wheel, window", or an object')
    min_score: Score | None = Field(None, description="segments with a lower score are dropped")

    def check(self, limits: Limits) -> None:
        """Check the number of names."""
        things = parse_names(self.things) if isinstance(self.things, str) else self.things
        stuff = parse_names(self.stuff) if isinstance(self.stuff, str) else self.stuff
        parts = parse_parts(self.parts) if isinstance(self.parts, str) else self.parts
        _require_few(_count([things, stuff, parts]), limits.names, "class names", "names")


class ReferFields(Fields):
    """Fields of `POST /refer`."""

    image: Upload
    expression: list[str] = Field(min_length=1, description="repeatable")
    threshold: Score | None = Field(
        None, description="an expression with a lower score describes nothing"
    )

    def check(self, limits: Limits) -> None:
        """Check the number of expressions."""
        _require_few(len(self.expression), limits.expressions, "expressions", "expressions")


class GroupFields(Fields):
    """Fields of `POST /group`."""

    images: list[Upload] = Field(min_length=1, description="repeatable")
    expression: str

    def check(self, limits: Limits) -> None:
        """Check the number of images."""
        _require_few(len(self.images), limits.images, "images", "images")


class PromptFields(Fields):
    """Fields of `POST /prompt`: points of one object, or boxes of an object each.

    Points and one box are of the same object.
    """

    image: Upload
    points: list[Point] = Field(
        [], description="[[x, y], [x, y, 0]] in pixels; 0 = outside of the object"
    )
    boxes: list[Box] = Field([], description="[[x1, y1, x2, y2]] in pixels")

    @field_validator("points", "boxes", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        """Parse the JSON of a text field."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value) if value.strip() else []
        except (ValueError, RecursionError):
            raise ValueError("this is not valid JSON, such as [[10, 20]]") from None

    @model_validator(mode="after")
    def _require_prompts(self) -> Self:
        if not self.points and not self.boxes:
            raise ValueError("give points or boxes")
        if self.points and len(self.boxes) > 1:
            raise ValueError("points belong to one object, and there are several boxes")
        return self

    def check(self, limits: Limits) -> None:
        """Check the number of prompts."""
        count = len(self.points) + len(self.boxes)
        _require_few(count, limits.prompts, "points and boxes", "prompts")

    def prompts(self) -> list[dict[str, Any]]:
        """Prompts for `Segmenter.prompt`."""
        if len(self.boxes) > 1:
            return [{"box": box} for box in self.boxes]
        inside = [point[:2] for point in self.points if len(point) == 2 or point[2]]
        outside = [point[:2] for point in self.points if len(point) == 3 and not point[2]]
        return [{"inside": inside, "outside": outside, "box": next(iter(self.boxes), None)}]


def parse_fields(kind: type[F], values: Mapping[str, Any], limits: Limits) -> F:
    """Check the fields of a request.

    Args:
        kind: subclass of `Fields`.
        values: see `read_fields`.
        limits: of numbers of names, images and prompts.

    Raises:
        RequestError: 422, naming the field.
        VocabularyError: for class names that cannot be parsed.
    """
    try:
        fields = kind.model_validate(values)
    except ValidationError as error:
        raise RequestError(422, _first_fault(error, kind)) from None
    except RecursionError:
        raise RequestError(422, "the fields are nested too deeply") from None
    fields.check(limits)
    return fields


def _first_fault(error: ValidationError, kind: type[Fields]) -> str:
    """Return a sentence about the first fault."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = printable(".".join(map(str, fault["loc"][:1])))
    if fault["type"] == "extra_forbidden":
        return f'there is no field "{place}"; the fields are {", ".join(kind.model_fields)}'
    if fault["type"] == "missing":
        return f'the field "{place}" is missing'
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {message[:1].lower()}{message[1:]}" if place else message


def _require_few(count: int, limit: int, what: str, flag: str) -> None:
    if count > limit:
        raise RequestError(
            422, f"there are {count:,} {what}, and at most {limit:,} are accepted (--max-{flag})"
        )


def _count(value: Any, level: int = 0) -> int:
    """Number of texts in nested lists and objects, keys included."""
    if level > MAX_LEVELS:
        raise RequestError(422, f"class names are nested more than {MAX_LEVELS} levels deep")
    if isinstance(value, str):
        return 1
    if isinstance(value, Mapping):
        return len(value) + _count(list(value.values()), level + 1)
    if isinstance(value, Iterable):
        return sum(_count(item, level + 1) for item in value)
    return 1
