"""Names that nothing else has."""

from collections import Counter
from collections.abc import Iterable


class NumberedNames:
    """Each name once: as asked for, or with the first number with which it is free."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._tried: Counter[str] = Counter()

    def __call__(self, stem: str) -> str:
        """A name like this one that is never given again."""
        name = stem
        while name in self._taken:
            self._tried[stem] += 1
            name = f"{stem}_{self._tried[stem]}"
        self._taken.add(name)
        return name
