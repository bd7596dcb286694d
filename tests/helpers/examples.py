"""How many examples a property is tried on."""

from hypothesis import settings

_USUAL = 100  # what hypothesis draws in the profile of `make test`


def examples(usual: int) -> int:
    """`usual` in `make test`; in `make test-long` as many times more as that draws where nothing is said."""
    return max(1, usual * settings.default.max_examples // _USUAL)
