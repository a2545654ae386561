"""Lines of the user's JSONL files into typed records: what both file formats share."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import PydanticCustomError

Line = tuple[str, Any]
"""Where it stands ("<file>, line <number>") and what its JSON holds."""

Lines = Iterable[Line]
"""All lines of a source; may be iterated again from the start."""

Reject = Callable[[str, str], None]
"""Takes the place of a bad line and the reason; raises DataError, or returns when the line is to be left out."""

Record = TypeVar("Record", bound=BaseModel)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be empty")
    return text


def _not_empty(items: list[Any]) -> list[Any]:
    if not items:
        raise PydanticCustomError("empty", "must not be an empty list")
    return items


Item = TypeVar("Item")
Text = Annotated[str, AfterValidator(_not_blank)]
Some = Annotated[list[Item], AfterValidator(_not_empty)]


def parse(lines: Lines, record: type[Record], reject: Reject) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) of each line that is one; the others go to `reject` with every reason in one clause."""
    for place, value in lines:
        if not isinstance(value, dict):
            reject(place, f"expected an object {{...}}, found {_shown(value)}")
            continue
        # Keys that open with an underscore are the user's own notes.
        named = {key: item for key, item in value.items() if not key.startswith("_")}
        try:
            parsed = record.model_validate(named)
        except ValidationError as error:
            reject(place, "; ".join(_reasons(error, record, set(named))))
            continue
        yield place, parsed


def with_id(values: Lines) -> Iterator[Line]:
    """Official records, their `_id` under `id` too: for `parse` a key that opens with `_` is a note of the user's."""
    for place, value in values:
        yield place, {**value, "id": value["_id"]} if isinstance(value, dict) and "_id" in value else value


def _reasons(error: ValidationError, record: type[BaseModel], given: set[str]) -> Iterator[str]:
    items = error.errors(include_url=False)
    missing = [str(item["loc"][-1]) for item in items if item["type"] == "missing"]
    misspelt: dict[str, str] = {}
    for key in missing:
        strangers = sorted(given - set(record.model_fields))
        misspelt |= {near: key for near in difflib.get_close_matches(key, strangers, n=1, cutoff=0.5)}
    for item in items:
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])[1:]
        if item["type"] == "extra_forbidden" and key not in misspelt:
            near = difflib.get_close_matches(key, record.model_fields, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]}?)" if near else ""
            yield f"{key} is not a key of this file{hint}; keys of your own open with an underscore"
        elif item["type"] == "missing":
            found = [near for near, wanted in misspelt.items() if wanted == key]
            yield f"{key} is missing" + (f" (rename {found[0]}?)" if found else "")
        elif item["type"] in ("blank", "empty"):
            yield f"{key} {item['msg']}"
        elif item["type"] != "extra_forbidden":
            yield f"{key} is {_shown(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
