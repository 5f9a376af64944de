"""Settings and rows checked by pydantic: unknown fields, wrong types and values out of range are refused by name."""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from jmedlora_utils.core.errors import JmedloraError


class Checked(BaseModel):
    """Base of everything that comes from a file or a user: frozen, no unknown fields, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def read(cls, values: Mapping[str, Any], where: str) -> Self:
        """Makes one from what a file or a caller gave.

        Raises:
            JmedloraError: A field is unknown, missing, of the wrong type or out of range; names the first one and what it takes.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise JmedloraError(f"{where}: {explain(error, cls.model_fields)}") from error

    def changed(self, **changes: Any) -> Self:
        """A copy with other values, checked again."""
        return self.read(self.model_dump() | changes, "settings")


def explain(error: ValidationError, known: Iterable[str]) -> str:
    """The first fault of a validation in one line: the field, what is wrong and, for an unknown one, the nearest known name."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["loc"][-1:] == ("[key]",):
        return f"the key {first['input']!r} is no text; put it in quotes"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"no field {field!r}{near(field, known)}"
    if first["type"] in ("missing", "missing_argument"):
        return f"field {field!r} is missing; add it"
    problem = str(first["ctx"]["error"]) if first["type"] == "value_error" else f"{first['msg']}, got {first['input']!r:.80}"
    return f"{field!r}: {problem}" if field else problem


def near(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'rank'?`, or the known names where none is near."""
    names = sorted(known)
    found = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {found[0]!r}?" if found else f"; known: {', '.join(names)}"


def with_expert(parameters: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The parameters of a notebook, and beside them those of its `expert` list, each written `name=value`; a later one wins.

    A value is read as JSON where it is JSON (`0.3`, `true`, `["q_proj"]`), else as text.
    """
    flat = {name: value for name, value in parameters.items() if name != "expert"}
    for entry in parameters.get("expert", ()):
        name, equals, value = (part.strip() for part in str(entry).partition("="))
        if not equals or not name:
            raise JmedloraError(f"{where}: expert holds {entry!r}; write it as name=value")
        if name in parameters:
            raise JmedloraError(f"{where}: expert names {name!r}, which is a parameter of its own; set it there")
        try:
            flat[name] = json.loads(value)
        except json.JSONDecodeError:
            flat[name] = value
    return flat
