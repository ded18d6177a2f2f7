"""What a setting may be, by the types of the settings: errors of pydantic say it in a sentence, not as values."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin


def values_at(settings: Any, location: Iterable[str | int]) -> list[str]:
    """Return the values that a literal setting may have.

    Args:
        settings: the type of the settings.
        location: of the error, as pydantic gives it: keys, and behind a variant's name its format.
    """
    return list(map(str, get_args(_type_at(settings, location))))


def formats_at(settings: Any, location: Iterable[str | int]) -> list[str]:
    """Return the formats that settings may have which are told apart by it; for the arguments see :func:`values_at`."""
    return [_format_of(member) for member in get_args(_type_at(settings, location))]


def _type_at(settings: Any, location: Iterable[str | int]) -> Any:
    kind = _without_none(settings)
    for key in location:
        origin = get_origin(kind)
        if origin in (dict, list):
            kind = get_args(kind)[-1]
        elif origin in (Union, UnionType):
            kind = next(member for member in get_args(kind) if _format_of(member) == key)
        else:
            fields = kind.model_fields.items()
            kind = next(field.annotation for name, field in fields if key == (field.alias or name))
        kind = _without_none(kind)
    return kind


def _without_none(kind: Any) -> Any:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        others = [member for member in get_args(kind) if member is not NoneType]
        return others[0] if len(others) == 1 else kind
    return kind


def _format_of(member: Any) -> str:
    return str(get_args(member.model_fields["format"].annotation)[0])
