"""Plans as JSON: there and back, and everything wrong with a file in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plainconv.exporter.errors import PlanError
from plainconv.exporter.partition import Part, Plan, plan_of_json, read_plan

names = st.text(min_size=1, max_size=8)
values = st.lists(names, max_size=3).map(tuple)
parts = st.builds(Part, name=names, device=st.integers(0, 3), stream=st.integers(0, 3), reads=values, writes=values)
plans = st.builds(
    Plan, parts=st.lists(parts, max_size=4).map(tuple), devices=st.integers(1, 4), streams=st.integers(1, 4)
)
GOOD = Plan((Part("a", 0, 0, ("x",), ("y",)), Part("b", 1, 0, ("y",), ("z",))), 2)


@given(plans)
def test_json_and_back(plan):
    """Given any plan → the same plan, and the same text again."""
    text = plan.to_json()
    assert plan_of_json(text) == plan
    assert plan_of_json(text).to_json() == text


def test_streams_may_be_left_out():
    """Given a plan by hand without streams → one stream a device."""
    data = json.loads(GOOD.to_json())
    del data["streams"], data["format"], data["format_version"]
    for part in data["parts"]:
        del part["stream"]
    assert plan_of_json(json.dumps(data)) == GOOD


def test_all_that_is_wrong_with_a_file_is_said_at_once():
    """Given five mistakes → one line that names each."""
    data = {"devices": "two", "parts": [{"name": "a", "device": 0, "reads": "x", "writes": [1]}, 7], "colour": 1}
    with pytest.raises(PlanError) as error:
        plan_of_json(json.dumps(data), "p.json")
    line = str(error.value)
    assert "\n" not in line and line.startswith("p.json: ")
    for found in ('devices is "two"', "colour", 'parts[0]: reads is "x"', "parts[0]: writes holds 1", "parts[1] is 7"):
        assert found in line


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "is not JSON"),
        ("[]", "is [], wanted an object"),
        ("{}", "devices is missing"),
        ('{"devices": true, "parts": []}', "devices is true, wanted int"),
        ('{"format": "other", "devices": 1, "parts": []}', 'format is "other"'),
        ('{"format_version": 2, "devices": 1, "parts": []}', "format_version is 2, wanted 1"),
        ('{"devices": 1, "parts": null}', "parts is null, wanted list"),
        ("[" * 100000, "is not JSON"),
    ],
)
def test_bad_text(text, found):
    with pytest.raises(PlanError) as error:
        plan_of_json(text)
    assert found in str(error.value) and "\n" not in str(error.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["devices", "parts", "streams", "name", "reads", "writes", "device"]), inner, max_size=5
            )
        ),
    )
)
def test_any_json_is_a_plan_or_refused(data):
    """Given any JSON → a plan or a PlanError of one line, never another exception."""
    try:
        plan = plan_of_json(json.dumps(data))
    except PlanError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(plan.devices, int)


def test_file(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(GOOD.to_json(), encoding="utf-8")
    assert read_plan(path) == GOOD
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(tmp_path / "none.json")


def test_value_comes_from_the_readers_own_device_else_from_the_first_part():
    """Given v on devices 0 and 1, read on 1 and 2 → from 1 on 1, from the first on 2; never from a part behind."""
    plan = Plan(
        (
            Part("a", 0, 0, ("x",), ("v",)),
            Part("early", 1, 0, ("v",), ("u",)),
            Part("b", 1, 0, ("x",), ("v",)),
            Part("c", 1, 0, ("v",), ("y",)),
            Part("d", 2, 0, ("v",), ("z",)),
        ),
        3,
    )
    assert [plan.writer("v", reader) for reader in (1, 3, 4)] == [0, 2, 0]
    assert plan.writer("y", 1) is None
    assert plan.source("v", 1) == 2
