"""The exporter's optimizer without the rules that take a small number for 0 and one near 1 for 1.

Its rules x + 0 → x and x·1 → x match constants within 1e-8 and one part in 100,000: sqrt(v + 1e-8), log(p + 1e-12) and
x / (‖x‖ + 1e-12) lose what keeps them finite. Surgery removes what is exactly 0 or 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from onnxscript import rewriter
from onnxscript.rewriter.rules.common import _no_op

_RULES = "_DEFAULT_REWRITE_RULES"


@contextmanager
def exact_constants() -> Iterator[None]:
    """Within it `torch.onnx.export` keeps every sum and product with a constant."""
    rules = getattr(rewriter, _RULES)
    inexact = {id(rule) for rule in _no_op.rules}
    setattr(rewriter, _RULES, tuple(rule for rule in rules if id(rule) not in inexact))
    try:
        yield
    finally:
        setattr(rewriter, _RULES, rules)
