"""Our packages `models` and `engines`, found beside this one and loaded under private names.

A user's repository may have packages of the same names. Theirs keep the plain names on `sys.path`; ours are loaded by
their place on disk, so that neither ever shadows the other.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parent.parent
_ALIAS = "plainconv_{}"


def room(name: str) -> ModuleType:
    """Our package or module of that dotted name (`models`, `models.checkpoints`, `engines`), imported on first use."""
    top, _, rest = name.partition(".")
    alias = _ALIAS.format(top)
    if alias not in sys.modules:
        folder = _ROOT / top
        spec = importlib.util.spec_from_file_location(
            alias, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None and spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules[alias] = package
        try:
            spec.loader.exec_module(package)
        except BaseException:
            del sys.modules[alias]
            raise
    return importlib.import_module(f"{alias}.{rest}") if rest else sys.modules[alias]
