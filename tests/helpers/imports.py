"""Who imports whom, read from the sources: no module is imported for it."""

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from places import ROOT

TOPS = ("exporter", "engines", "models")


@functools.cache
def files() -> dict[str, Path]:
    """Every module of the package by its name without `plainconv.`, and its file."""
    found = {}
    for top in TOPS:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports() -> dict[str, set[str]]:
    """What each module imports, at its top and within its functions: other modules, else a foreign top name."""
    modules = files()
    return {name: {_known(found, modules) for found in _named(name, path)} for name, path in modules.items()}


def _known(name: str, modules: Mapping[str, Path]) -> str:
    """The module that `plainconv.a.b.c` lies in, without `plainconv.`; of a foreign module the first name."""
    first, _, rest = name.partition(".")
    if first != "plainconv":
        return first
    while rest and rest not in modules:
        rest = rest.rpartition(".")[0]
    return rest


def _named(name: str, path: Path) -> Iterator[str]:
    package = ["plainconv", *name.split(".")]
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{base}.{each.name}" for each in node.names)


def room(module: str) -> str:
    """The room of a module: the folder or file right below its top level, as in `exporter.surgery`."""
    return ".".join(module.split(".")[:2])


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """Some modules that import each other in a ring, the first again at the end; empty where there is none."""
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(arrows.get(name, ())):
            if found := search(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(arrows) if (found := search(name, []))), [])
