"""What TensorRT-RTX builds for which GPU: what the builder itself was seen to take and to refuse."""

import importlib.util

import pytest

from plainconv.engines import backend as backend_module
from plainconv.engines.options import BuildOptions
from plainconv.engines.tensorrt import build as tensorrt
from plainconv.engines.tensorrt.targets import targets_for, why_not
from plainconv.exporter.errors import EngineError

TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
RTX = next(b for b in backend_module.backends() if b.name == "tensorrt_rtx")
TENSORRT = next(b for b in backend_module.backends() if b.name == "tensorrt")

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt-rtx")


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_builder_agrees(tmp_path, make, precision, target):
    """Given a conv in a precision and a target -> the builder fails for want of the type where `why_not` has a reason.

    The Gemm of the graph stays in the type that the conv's result has; sm75 has none in fp32.
    """
    floats = "fp16" if precision == "int8" else None
    path = make.typed_onnx(tmp_path / "m.onnx", precision, floats=floats)
    reason = why_not(target, precision)
    if reason is None:
        assert tensorrt.compile_onnx(path, RTX, BuildOptions(targets=(target,))).precision == precision
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorrt, "targets_for", lambda backend, targets, precisions, chosen: targets)
        with pytest.raises(
            EngineError, match=f"Cannot compile for target.s. {target}, because .* HW-specific datatypes"
        ):
            tensorrt.compile_onnx(path, RTX, BuildOptions(targets=(target,)))


def test_why_not():
    assert why_not("sm86", "fp8") == "sm86 has no fp8, sm89 and later have; give other --targets, or another precision"
    assert (
        why_not("sm75", "bf16") == "sm75 has no bf16, sm80 and later have; give other --targets, or another precision"
    )
    assert {why_not(target, kind) for target in TARGETS for kind in ("fp32", "fp16", "int8")} == {None}


def test_targets_that_the_user_chose_are_all_kept_or_refused():
    assert targets_for(RTX, ("sm89", "sm120"), ("fp8", "fp32"), chosen=True) == ("sm89", "sm120")
    with pytest.raises(EngineError, match=r"^tensorrt_rtx cannot build it: sm80 has no fp8, sm89 and later have; give"):
        targets_for(RTX, ("sm80", "sm89"), ("fp8", "fp32"), chosen=True)


def test_default_targets_are_those_that_can():
    assert targets_for(RTX, TARGETS[1:], ("fp8",), chosen=False) == ("sm89", "sm120", "sm121")
    assert targets_for(RTX, TARGETS[1:], ("int8", "bf16"), chosen=False) == TARGETS[1:]


def test_tensorrt_builds_for_the_gpu_at_hand_and_says_itself_what_that_lacks():
    assert targets_for(TENSORRT, ("sm86",), ("fp8",), chosen=False) == ("sm86",)
