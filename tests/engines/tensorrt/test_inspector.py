"""What an engine says of its layers, against what the graph wants: on JSON as the inspector prints it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.engines.tensorrt.inspector import check_inspected, disagreements
from plainconv.exporter.errors import EngineError

LAYERS = {"stage.conv": "int8", "head": "fp16", "gate": "fp32"}


def engine(*layers):
    """The inspector's JSON for (nodes, types of inputs)."""
    return json.dumps(
        {
            "Layers": [
                {
                    "Name": f"kernel {i}",
                    "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
                    "Inputs": [{"Name": f"t{k}", "Format/Datatype": kind} for k, kind in enumerate(types)],
                }
                for i, (nodes, types) in enumerate(layers)
            ],
            "Bindings": ["input", "logits"],
        }
    )


@pytest.mark.parametrize(
    "layers",
    [
        [(["stage.conv", "relu"], ["Row major Int8 format"])],
        [(["stage.conv"], ["Thirty-two wide channel vectorized row major Int8 format"])],
        [(["head"], ["Channel major FP16 format where channel % 8 == 0"])],
        [(["head"], ["Half"]), (["gate"], ["Float"])],
        [(["head"], ["Int8"])],  # narrower than asked for: the runtime's own choice, and no fall-back
        [(["gate", "a0_Q"], ["FP32"])],
    ],
)
def test_layers_that_are_what_the_graph_wants(layers):
    assert disagreements(LAYERS, engine(*layers)) == []


def test_layer_that_fell_back():
    """Given an int8 conv that reads fp32, with a residual in fp16 beside another -> one line that names it."""
    information = engine((["stage.conv", "relu"], ["Row major linear FP32"]), (["head"], ["Float", "Half"]))
    assert disagreements(LAYERS, information) == ["the engine computes stage.conv in fp32, the graph wants int8"]
    with pytest.raises(EngineError, match=r"stage\.conv in fp32, the graph wants int8; keep that layer in the"):
        check_inspected(LAYERS, information)


@pytest.mark.parametrize("spelled", ["BFloat16", "BF16", "Row major linear BF16 format"])
def test_bf16_is_not_taken_for_fp16_or_fp32(spelled):
    assert disagreements({"c": "bf16"}, engine((["c"], [spelled]))) == []
    assert disagreements({"c": "int8"}, engine((["c"], [spelled])))[0].startswith("the engine computes c in bf16")


@pytest.mark.parametrize(
    "layer",
    [
        (["a0_Q", "stage.conv"], ["FP32"]),  # its own QuantizeLinear is part of the kernel
        (["stage.conv", "head"], ["FP32"]),  # two layers in one kernel
        (["other"], ["FP32"]),
        ([], ["FP32"]),
        (["stage.conv"], []),
        (["stage.conv"], ["N/A due to dynamic shapes"]),
    ],
)
def test_layers_that_say_nothing(layer):
    assert disagreements(LAYERS, engine(layer)) == []


@pytest.mark.parametrize("information", ["", "no JSON", "[]", '{"Layers": ["conv", 3, null]}', '{"Layers": null}'])
def test_engine_that_says_nothing(information):
    """Given no information, or names alone (a lower verbosity) -> no complaint."""
    check_inspected(LAYERS, information)
    assert disagreements(LAYERS, information) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["Inputs", "Metadata", "x"]), inner),
    max_leaves=8,
)


@given(st.lists(json_values, max_size=4))
def test_any_json_is_read_or_passed_over(layers):
    assert disagreements(LAYERS, json.dumps({"Layers": layers})) == []
