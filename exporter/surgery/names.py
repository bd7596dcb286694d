"""Names that nothing else in a graph has, without a look at the whole graph for each."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx_graphsurgeon as gs

_KEPT = "names"


class Names:
    """Whoever has each name: values of a graph and those within it, and nodes of the one graph.

    What is taken out of a graph reads and makes nothing any more, and its name is free.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self._values: dict[str, list[Any]] = defaultdict(list)
        self._nodes: dict[str, list[Any]] = defaultdict(list)
        self._promised: set[str] = set()
        graphs = (graph, *graph.subgraphs(recursive=True))
        self._ends = {id(t) for each in graphs for t in (*each.inputs, *each.outputs)}
        for each in graphs:
            for name, value in each.tensors().items():
                self._values[name].append(value)
        for node in graph.nodes:
            self._nodes[node.name].append(node)

    def is_taken(self, name: str) -> bool:
        """Whether a value has the name, or is to have it."""
        held = any(t.inputs or t.outputs or id(t) in self._ends for t in self._values.get(name, ()))
        return held or name in self._promised

    def is_taken_by_node(self, name: str) -> bool:
        """Whether a node has the name."""
        return any(node.inputs or node.outputs for node in self._nodes.get(name, ()))

    def promise(self, name: str) -> None:
        """A value not known yet gets the name."""
        self._promised.add(name)

    def give(self, value: Any) -> None:
        """The value that a name was promised to is there."""
        self._promised.discard(value.name)
        self._values[value.name].append(value)

    def give_node(self, node: Any) -> None:
        """A node was added."""
        self._nodes[node.name].append(node)


@contextmanager
def names_kept(graph: gs.Graph) -> Iterator[None]:
    """Within it, `names_of` knows the names of `graph`, as long as only `edit` adds to it."""
    outer = vars(graph).get(_KEPT)
    vars(graph)[_KEPT] = list[Names]()  # filled when it is asked for
    try:
        yield
    finally:
        vars(graph)[_KEPT] = outer


def names_of(graph: gs.Graph) -> Names | None:
    """The names that are kept of `graph`, if they are."""
    kept: list[Names] | None = vars(graph).get(_KEPT)
    if kept is not None and not kept:
        kept.append(Names(graph))
    return kept[0] if kept else None


def first_free(stem: str, is_taken: Callable[[str], bool]) -> str:
    """`stem`, or `stem` and the first number with which it is free."""
    name, n = stem, 0
    while is_taken(name):
        n += 1
        name = f"{stem}_{n}"
    return name
