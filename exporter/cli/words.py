"""What is said on stderr while a command works."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from ..errors import PlainconvWarning


@contextlib.contextmanager
def only_our_words() -> Iterator[None]:
    """Our warnings as one line each on stderr, no one else's; what a user's network prints stays out of stdout."""

    def show(message: Warning | str, *_: Any) -> None:
        print(f"exporter: warning: {message}".replace("\n", " "), file=sys.stderr)

    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", PlainconvWarning)
        warnings.showwarning = show  # type: ignore[assignment]
        yield
