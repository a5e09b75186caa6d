"""Find a component by name: kind -> package, module name = component name, dotted paths for third parties.

`load("critics", "iql")` imports robot_value.critics.iql and returns the module; its `Config` dataclass builds the
component. Nothing is registered: a new file is a new component.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

# kind -> (packages searched in order, suffix of the module name)
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "critics": (("robot_value.critics",), ""),
    "policies": (("robot_value.policies",), ""),
    "selectors": (("robot_value.steering.selectors",), ""),
    "gates": (("robot_value.steering.gates",), ""),
    "proposers": (("robot_value.steering.proposers",), ""),
    "guides": (("robot_value.steering.guides",), ""),
    "followers": (("robot_value.steering.followers",), ""),
    "displays": (("robot_value.display",), ""),
    "robots": (("robot_value.sim", "robot_value.ros_nodes"), "_robot"),
    "converters": (("robot_value.datasets",), "_converter"),
    "exporters": (("robot_value.datasets",), "_exporter"),
    "labelers": (("robot_value.labelers",), ""),
}


class UnknownComponent(ValueError):
    """No component of that name; the message holds the closest match and the list."""


def names(kind: str) -> list[str]:
    """All component names of a kind, without importing them."""
    packages, suffix = _kind(kind)
    found = set()
    for package in packages:
        spec = importlib.util.find_spec(package)
        for module in pkgutil.iter_modules(spec.submodule_search_locations or []) if spec else []:
            if module.name.endswith(suffix) and _has_config(module.module_finder.find_spec(module.name, None)):
                found.add(module.name.removesuffix(suffix))
    return sorted(found)


def load(kind: str, name: str) -> ModuleType:
    """The component's module. Errors inside the module surface as they are; only an unknown name is ours."""
    if "." in name:
        return _third_party(kind, name)
    if name not in names(kind):
        raise UnknownComponent(unknown(kind, name, names(kind)))
    packages, suffix = _kind(kind)
    for package in packages:
        if importlib.util.find_spec(f"{package}.{name}{suffix}"):
            return importlib.import_module(f"{package}.{name}{suffix}")
    raise UnknownComponent(unknown(kind, name, names(kind)))


def unknown(what: str, name: str, known: list[str]) -> str:
    """One line: what was asked for, the closest match, the list."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"no {what} called {name!r}; {hint}known: {', '.join(known) or 'none'}"


def _has_config(spec: importlib.machinery.ModuleSpec | None) -> bool:
    """Modules without a Config are parts that components share (heads, backups), not components."""
    return bool(spec and spec.origin and "\nclass Config" in Path(spec.origin).read_text(encoding="utf-8"))


def _kind(kind: str) -> tuple[tuple[str, ...], str]:
    if kind not in KINDS:
        raise UnknownComponent(unknown("component kind", kind, sorted(KINDS)))
    return KINDS[kind]


def _third_party(kind: str, path: str) -> ModuleType:
    _kind(kind)
    try:
        found = importlib.util.find_spec(path)
    except ModuleNotFoundError as error:
        if not f"{path}.".startswith(f"{error.name}."):  # the package is there, something it imports is not
            raise
        found = None
    if found is None:
        raise UnknownComponent(f"no module {path!r} for {kind}; a dotted name must be an importable module")
    return importlib.import_module(path)
