"""Dataclass -> flags, in LeRobot's manner: `--policy.type=flow --policy.horizon=8` (draccus underneath).

A command is a frozen dataclass whose field comments become the help. A field named in `components` gets its type from
the component the user chose by `--<field>.type`, so that every flag of that component is known, checked and explained.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from itertools import takewhile
from typing import Any, get_args, get_origin, get_type_hints

import draccus
from draccus.utils import DraccusException

from . import components


class FlagError(ValueError):
    """The command line cannot be understood; the message says which flag and what was expected."""


@dataclass(frozen=True)
class Choice:
    """A field of a command whose type is a component's Config."""

    kind: str  # a key of components.KINDS
    default: str | None  # component name, None where the field is optional


@dataclass(frozen=True)
class Parsed:
    """A parsed command line: the command's own values and, per chosen component, its name and Config."""

    values: Any  # instance of the command dataclass, component fields included
    names: Mapping[str, str | None]  # component field -> chosen component name


def parse(command: type, argv: Sequence[str], choices: Mapping[str, Choice] | None = None, prog: str = "") -> Parsed:
    """Parse `argv` into `command`. Raises FlagError or components.UnknownComponent; `--help` prints and exits."""
    choices = choices or {}
    rest, names = _split_types(list(argv), choices)
    chosen = {
        name: components.load(choice.kind, names[name]).Config
        for name, choice in choices.items()
        if names[name] is not None
    }
    if "-h" in rest or "--help" in rest:
        _print_choices(choices, names)
    for flag in rest:
        if flag.startswith("--"):
            _known(flag.split("=")[0][2:], command, chosen, choices)
    try:
        made = _with_components(command, chosen)
        values = draccus.parse(made, args=_explicit(rest, flag_types(made)), prog=prog)
    except (DraccusException, ValueError) as error:
        raise FlagError(_said(error)) from error
    return Parsed(values, names)


def _said(error: Exception) -> str:
    """draccus's message, and with it the reason of a Config that refused its values."""
    cause = error.__cause__ or error.__context__
    why = f" {cause}" if isinstance(cause, ValueError) and str(cause) not in str(error) else ""
    return f"{error}{why}".replace("\n", " ")


def flag_types(config: type, prefix: str = "") -> dict[str, Any]:
    """Every flag of a (nested) dataclass and its type: {"robot.task": str, ...}."""
    hints, found = get_type_hints(config), {}
    for item in fields(config):
        name, kind = prefix + item.name, hints[item.name]
        found[name] = kind
        if hasattr(kind, "__dataclass_fields__"):
            found |= flag_types(kind, f"{name}.")
    return found


def positional(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Leading words that are not flags, and the rest: `inspect PATH --html=x` -> (["PATH"], ["--html=x"])."""
    words = list(argv)
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return words[:count], words[count:]


def _split_types(argv: list[str], choices: Mapping[str, Choice]) -> tuple[list[str], dict[str, str | None]]:
    """Take `--<field>.type` flags, or `--<field>` for short, out of argv; every chosen component name by field."""
    names: dict[str, str | None] = {name: choice.default for name, choice in choices.items()}
    rest: list[str] = []
    items = iter(argv)
    for item in items:
        flag, equals, value = item.partition("=")
        field_name = flag[2:].removesuffix(".type")
        if not flag.startswith("--") or field_name not in choices:
            rest.append(item)
            continue
        names[field_name] = value if equals else next(items, "")
        if not names[field_name]:
            raise FlagError(f"{flag} needs a name; known: {', '.join(components.names(choices[field_name].kind))}")
    return rest, names


def _with_components(command: type, chosen: Mapping[str, type]) -> type:
    """The command with each component field typed by its Config; named as the command, so its comments are found."""
    hints, new = get_type_hints(command), []
    for item in fields(command):
        if item.name in chosen:
            config = chosen[item.name]
            new.append((item.name, config, field(default_factory=config)))
        elif item.default_factory is not MISSING:
            new.append((item.name, hints[item.name], field(default_factory=item.default_factory)))
        else:
            new.append((item.name, hints[item.name], field(default=item.default)))
    made = make_dataclass(command.__name__, new, frozen=True, module=command.__module__)
    made.__doc__, made.__qualname__ = command.__doc__, command.__qualname__
    return made


def _known(flag: str, command: type, chosen: Mapping[str, type], choices: Mapping[str, Choice]) -> None:
    known = {**flag_types(_with_components(command, chosen)), "config_path": str, "help": bool}
    if flag not in known:
        head = flag.split(".")[0]
        if head in choices and head not in chosen:
            names = ", ".join(components.names(choices[head].kind))
            raise FlagError(f"--{flag} needs --{head}.type first; known: {names}")
        raise FlagError(components.unknown("flag", flag, sorted(known)))


def _explicit(argv: list[str], types: Mapping[str, Any]) -> list[str]:
    """What draccus wants spelled out: a bare `--flag` is true, and `--list=a,b` or `--list a b` is `--list=[a,b]`."""
    explicit, position = [], 0
    while position < len(argv):
        flag, equals, value = argv[position].partition("=")
        words = [value] if equals else list(takewhile(_is_value, argv[position + 1 :]))
        position += 1 if equals else 1 + len(words)
        kind = types.get(flag.removeprefix("--"))
        if kind is bool and not words:
            words = ["true"]
        if _is_sequence(kind) and words and not words[0].startswith(("[", "null")):
            words = [f"[{','.join(words)}]"]
        explicit += [f"{flag}={' '.join(words)}"] if words and flag.startswith("--") else [flag, *words]
    return explicit


def _is_value(word: str) -> bool:
    return not word.startswith("--")


def _is_sequence(kind: Any) -> bool:
    """tuple[...] or list[...], also where None is allowed."""
    return get_origin(kind) in (tuple, list) or any(get_origin(each) in (tuple, list) for each in get_args(kind))


def _print_choices(choices: Mapping[str, Choice], names: Mapping[str, str | None]) -> None:
    for name, choice in choices.items():
        known = ", ".join(components.names(choice.kind))
        print(f"--{name}.type chooses one of: {known} (default: {names[name]})", file=sys.stdout)
