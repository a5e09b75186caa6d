"""Dataclass -> flags, in LeRobot's manner: `--policy.type=flow --policy.horizon=8` (draccus underneath).

A command is a frozen dataclass whose field comments become the help. A field named in `components` gets its type from
the component the user chose by `--<field>.type`, so that every flag of that component is known, checked and explained.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from typing import Any, get_type_hints

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
        values = draccus.parse(
            _with_components(command, chosen), args=_explicit_booleans(rest, command, chosen), prog=prog
        )
    except (DraccusException, ValueError) as error:
        raise FlagError(str(error).replace("\n", " ")) from error
    return Parsed(values, names)


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
    """Take `--<field>.type` flags out of argv; every chosen component name by field."""
    names: dict[str, str | None] = {name: choice.default for name, choice in choices.items()}
    rest: list[str] = []
    items = iter(argv)
    for item in items:
        flag, equals, value = item.partition("=")
        field_name = flag[2:].removesuffix(".type")
        if not flag.startswith("--") or not flag.endswith(".type") or field_name not in choices:
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


def _explicit_booleans(argv: list[str], command: type, chosen: Mapping[str, type]) -> list[str]:
    """A bare `--flag` means true (draccus wants `--flag=true`)."""
    booleans = {f"--{name}" for name, kind in flag_types(_with_components(command, chosen)).items() if kind is bool}
    explicit = []
    for position, item in enumerate(argv):
        following = argv[position + 1] if position + 1 < len(argv) else "--"
        bare = item in booleans and following.startswith("-")
        explicit.append(f"{item}=true" if bare else item)
    return explicit


def _print_choices(choices: Mapping[str, Choice], names: Mapping[str, str | None]) -> None:
    for name, choice in choices.items():
        known = ", ".join(components.names(choice.kind))
        print(f"--{name}.type chooses one of: {known} (default: {names[name]})", file=sys.stdout)
