"""What a wrong setting's error says: its full key, what was expected there, what was received.

The expectations are read off the settings dataclasses, so that they cannot fall out of step.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from configs.schema import Recipe, SettingError, UserError

_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "truth values"),
    float: ("a number", "numbers"),
    int: ("a whole number", "whole numbers"),
    str: ("text", "texts"),
    Any: ("anything", "values"),
    type(None): ("null", "nulls"),
}
_KEY = re.compile(r'^(?:Parser key )?"?(?P<key>[\w.]+)"?:\s')
# What a parser says of a command's own options, which are no settings.
_MISSING = re.compile(r"^the following arguments are required: (?P<names>.+)$")
_NO_VALUE = re.compile(
    r"^argument (?P<option>--[\w.-]+).*: expected (?:one|at least one) argument$"
)
_CHOICE = re.compile(
    r"^argument (?P<option>--[\w-]+): invalid choice: '(?P<value>.*)' \(choose from (?P<of>.*)\)$"
)
_OPTION = re.compile(
    r'^Parser key "(?P<option>\w+)":\s+Expected an? <class .(?P<kind>\w+).>\. '
    r"Got value: (?P<value>.*)$"
)
_VALUE = re.compile(
    r"(?:Given value:\s*|Got value:\s*|Unable to load config ')(?P<value>.*?)(?:' - .*)?$",
    re.DOTALL,
)


def settings_of(section: Any = Recipe, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> type of every setting; a section's type is its dataclass."""
    hints = typing.get_type_hints(section)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        key, kind = f"{prefix}{field.name}", hints[field.name]
        found[key] = kind
        if dataclasses.is_dataclass(kind):
            found |= settings_of(kind, f"{key}.")
    return found


def expectation(kind: Any) -> str:
    """What a setting of type `kind` takes, in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return f"settings ({', '.join(field.name for field in dataclasses.fields(kind))})"
    if origin in (Union, types.UnionType):
        return ", or ".join(expectation(choice) for choice in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is list:
        return f"a list of {_several(arguments[0])}"
    if origin is dict:
        return f"a mapping of names to {_several(arguments[1])}"
    return _WORDS[kind][0]


def _several(kind: Any) -> str:
    if typing.get_origin(kind) is list:
        return f"lists of {_several(typing.get_args(kind)[0])}"
    return _WORDS[kind][1] if kind in _WORDS else "mappings"


def refuse_unreadable(path: str | Path, further: typing.Collection[str] = ()) -> None:
    """Looks through a recipe file for what cannot be one.

    Args:
        path: The file.
        further: Keys allowed beside the recipe's sections.

    Raises:
        UserError: If it is missing or is not YAML, or a key in it is no setting or stands there
            twice; the message names the full key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        document = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{path}: expected a recipe file ({reason}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        problem = getattr(error, "problem", None) or "unreadable"
        raise UserError(f"{path}{line}: expected YAML ({problem}).") from error
    if document is None:
        return
    if not isinstance(document, Mapping):
        raise UserError(f"{path}: expected settings ({', '.join(_sections())}).")
    for key, value in _entries(document):
        if key in settings_of() or key in further:
            continue
        raise unknown(key, value)
    for key, first, again in _named_twice(yaml.compose(text, yaml.SafeLoader)):
        raise UserError(
            f"{path}, line {again}: expected {key} once; it stands in line {first} already, and "
            "only one of the two could hold."
        )


def _sections() -> list[str]:
    return [field.name for field in dataclasses.fields(Recipe)]


def _entries(document: Mapping[Any, Any], section: Any = Recipe, prefix: str = "") -> Iterator:
    """Keys and values as written, down to where no section begins."""
    hints = typing.get_type_hints(section)
    for name, value in document.items():
        key, kind = f"{prefix}{name}", hints.get(name)
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise SettingError(key, value, expectation(kind))
            yield from _entries(value, kind, f"{key}.")
        else:
            yield key, value


def _named_twice(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    """(key, line, later line) of keys that stand twice in one mapping, of which YAML keeps one."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _named_twice(item, prefix)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for name, value in node.value:
            key, line = f"{prefix}{name.value}", name.start_mark.line + 1
            if key in lines:
                yield key, lines[key], line
            lines[key] = line
            yield from _named_twice(value, f"{key}.")


def unknown(key: str, value: Any, shown: str | None = None) -> SettingError:
    """The error for a key that is no setting, with the settings it resembles."""
    known = list(settings_of())
    close = difflib.get_close_matches(key, known, n=2, cutoff=0.75)
    leaf = key.rpartition(".")[2]
    close = close or [other for other in known if other.rpartition(".")[2] == leaf][:2]
    meant = f" (did you mean {' or '.join(close)}?)" if close else " (--help lists them)"
    return SettingError(shown or key, value, f"the name of a setting{meant}")


def _of_an_option(message: str) -> UserError | None:
    """The error for an option that a command has beside the recipe's settings."""
    if found := _MISSING.match(message):
        return UserError(f"{found['names'].upper()}: expected as an argument. Received: nothing")
    if found := _NO_VALUE.match(message):
        return UserError(f"{found['option']}: expected a value. Received: nothing")
    if found := _CHOICE.match(message):
        choices = found["of"].replace("'", "")
        return SettingError(found["option"], found["value"], f"one of {choices}")
    if found := _OPTION.match(message):
        words = {kind.__name__: words for kind, (words, _) in _WORDS.items() if kind is not Any}
        option = f"--{found['option'].replace('_', '-')}"
        return SettingError(option, found["value"], words.get(found["kind"], found["kind"]))
    return None


def reworded(message: str) -> UserError:
    """A parser's complaint as an error that names key, value and what was expected."""
    message = message.strip()
    if message.startswith("unrecognized arguments: "):
        argument = message.partition(": ")[2].split()[0]
        if not argument.startswith("--"):
            return UserError(
                f"{argument}: expected --SETTING=VALUE here; the recipe is the first argument."
            )
        key, _, value = argument[2:].partition("=")
        return unknown(key, value, shown=f"--{key}")
    of_an_option = _of_an_option(message)
    if of_an_option is not None:
        return of_an_option
    key_found, value_found = _KEY.match(message), _VALUE.search(message)
    kind = settings_of().get(key_found["key"]) if key_found else None
    if key_found and value_found and kind is not None:
        return SettingError(key_found["key"], value_found["value"].strip(), expectation(kind))
    message = message.replace('Parser key "', '"').replace("Parser key ", "")
    return UserError(re.sub(r"\s+", " ", message))
