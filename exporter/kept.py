"""What a network keeps of its last call, as grids of the last size, kept out of where it would not be its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """Give back afterwards what `module` and those within it had as attributes, in lists, dicts and sets among them.

    A call in another type, or with tensors that hold no numbers, leaves such values behind where the network keeps
    them, and the next call would take them up.
    """
    held = [(vars(part), dict(vars(part))) for part in module.modules()]
    inside = [(each, each.copy()) for _, before in held for each in before.values() if type(each) in (dict, list, set)]
    try:
        yield
    finally:
        for now, before in held:
            if len(now) != len(before) or any(now.get(name, held) is not value for name, value in before.items()):
                now.clear()
                now.update(before)
        for each, before in inside:
            if type(each) is list:
                each[:] = before
            else:
                each.clear()
                each.update(before)
