"""Names of networks."""

import pytest

from plainconv.exporter.source.names import NAME, file_safe, snake_case


@pytest.mark.parametrize(
    ("name", "snake"), [("RGBDNet", "rgbd_net"), ("Net", "net"), ("VanillaNet5", "vanilla_net5"), ("my_net", "my_net")]
)
def test_snake_case(name, snake):
    assert snake_case(name) == snake


@pytest.mark.parametrize("name", ["my net", "模型", "a/b:c", "..", "", "x" * 99, "net.v2"])
def test_any_name_is_made_safe(name):
    assert NAME.fullmatch(file_safe(name)) and file_safe(file_safe(name)) == file_safe(name)
