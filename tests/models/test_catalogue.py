"""The catalogue: names, parameter counts, options and their errors."""

import subprocess
import sys
from types import ModuleType

import pytest
import torch

from plainconv import models
from plainconv.exporter.bundle import TensorSpec
from plainconv.exporter.bundle.preprocessing import misfit
from plainconv.exporter.bundle.presets import fitted
from plainconv.exporter.errors import SourceError
from plainconv.models import create, entries
from plainconv.models.parameters import PARAMETERS

# millions of parameters, training form and plain form
COUNTS = {
    "vanillanet_5": (22.33, 15.52),
    "vanillanet_6": (56.12, 32.51),
    "vanillanet_7": (56.67, 32.80),
    "vanillanet_8": (65.18, 37.10),
    "vanillanet_9": (73.68, 41.40),
    "vanillanet_10": (82.19, 45.69),
    "vanillanet_11": (90.69, 49.99),
    "vanillanet_12": (99.20, 54.29),
    "vanillanet_13": (107.70, 58.59),
    "vanillanet_13_x1_5": (236.94, 127.80),
    "vanillanet_13_x1_5_ada_pool": (236.94, 127.80),
    "parnet_s": (20.93, 19.13),
    "parnet_s_96": (20.98, 19.18),
    "parnet_m": (38.95, 35.58),
    "parnet_l": (60.18, 54.91),
    "parnet_xl": (93.18, 84.96),
    "parnet_m_depth9": (27.58, 25.25),
    "parnet_m_depth15": (50.32, 45.91),
    "parnet_l_depth9": (42.42, 38.78),
    "parnet_l_depth15": (77.94, 71.05),
    "parnet_xl_depth9": (65.43, 59.75),
    "parnet_xl_depth15": (120.92, 110.18),
    "parnet_m_1stream": (39.34, 35.93),
    "parnet_m_2streams": (39.76, 36.32),
    "parnet_m_2streams_apart": (39.06, 35.68),
    "parnet_m_4streams": (39.23, 35.82),
    "parnet_ensemble_2": (78.68, 71.87),
    "parnet_ensemble_3": (118.02, 107.80),
    "parnet_m_no_gates": (35.60, 32.23),
    "parnet_cifar10_32": (1.41, 1.28),
    "parnet_cifar10_112": (17.08, 15.55),
    "parnet_cifar10_168": (38.34, 34.92),
    "parnet_cifar100_32": (1.43, 1.30),
    "parnet_cifar100_112": (17.16, 15.63),
    "parnet_cifar100_168": (38.46, 35.04),
    "resnet_50": (25.56, 25.53),
    "resnet12_wide": (38.99, 38.99),
    "resnet12_wide_sse": (38.91, 38.91),
    "alexnet": (61.10, 61.10),
    "retinanet_vanillanet_13": (123.49, 75.38),
    "mask_rcnn_vanillanet_13": (125.26, 77.15),
    "parnet_xl_yolo": (118.63, 110.41),  # our reading: no count is published
    "parnet_xl_csp_yolo": (86.18, 81.10),
    "repvgg_a0": (9.11, 8.31),
    "repvgg_a1": (14.09, 12.79),
    "repvgg_a2": (28.21, 25.50),
    "repvgg_b0": (15.82, 14.34),
    "repvgg_b1": (57.42, 51.83),
    "repvgg_b1g2": (45.78, 41.36),
    "repvgg_b1g4": (39.97, 36.13),
    "repvgg_b2": (89.02, 80.32),
    "repvgg_b2g2": (70.85, 63.96),
    "repvgg_b2g4": (61.76, 55.78),
    "repvgg_b3": (123.09, 110.96),
    "repvgg_b3g2": (96.91, 87.40),
    "repvgg_b3g4": (83.83, 75.63),
}


def test_catalogue_holds_the_published_networks_and_the_digits() -> None:
    assert entries().keys() == COUNTS.keys() | {
        "vanillanet_digits", "parnet_digits", "resnet_digits", "digits_detector", "digits_segmenter",
    }  # fmt: skip


# millions of parameters as the papers print them, which are the plain form's
PRINTED = {
    "parnet_cifar10_32": 1.3,  # Non-deep Networks, Table 6
    "parnet_cifar10_112": 15.5,
    "parnet_cifar10_168": 35,
    "parnet_ensemble_2": 72,  # Table 9
    "parnet_ensemble_3": 108,
    "parnet_m_1stream": 36,  # Table 8
    "resnet12_wide": 39.0,
    "resnet12_wide_sse": 39.0,
}


@pytest.mark.parametrize("name", PRINTED)
def test_counts_are_those_that_the_papers_print(name: str) -> None:
    counted = entries()[name].params_plain / 1e6
    assert counted == pytest.approx(PRINTED[name], abs=0.5 if PRINTED[name] > 16 else 0.06)


@pytest.mark.parametrize(
    ("name", "series_order", "printed"),
    [("retinanet_vanillanet_13", 3, 74.6), ("mask_rcnn_vanillanet_13", 3, 76.3)],
)
def test_detectors_of_the_paper_s_table_have_n_3(name: str, series_order: int, printed: float) -> None:
    with torch.device("meta"):
        network = create(name, deploy=True, series_order=series_order)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(printed, abs=0.1)


@pytest.mark.parametrize("name", models.entries())
def test_parameters_as_data_are_those_of_the_code(name: str) -> None:
    counted = []
    for deploy in (False, True):
        with torch.device("meta"):
            counted.append(sum(parameter.numel() for parameter in create(name, deploy=deploy).parameters()))
    assert PARAMETERS[name] == tuple(counted)


def test_importing_the_catalogue_imports_no_torch() -> None:
    code = (
        "import sys; from plainconv import models; "
        "names = [(e.name, e.family, e.params_plain, e.input_shape) for e in models.entries().values()]; "
        "assert len(names) > 50; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    entry = entries()[name]
    counted = (round(entry.params_training / 1e6, 2), round(entry.params_plain / 1e6, 2))
    assert counted == COUNTS[name]


def test_keys_and_shapes_are_those_of_the_vectors(any_vector_name: str, conformance: ModuleType) -> None:
    vector = conformance.load(any_vector_name)
    with torch.device("meta"):
        state = create(vector.network, **vector.options).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == vector.shapes


CLASSIFIERS = [name for name, entry in models.entries().items() if entry.heads[0]]


@pytest.mark.parametrize("name", models.entries())
def test_preprocessing_is_of_the_input_s_channels(name: str) -> None:
    entry = entries()[name]
    made = fitted(entry.preprocessing, *entry.input_shape[2:])
    assert misfit(made, (TensorSpec("input", "float32", entry.input_shape),)) is None
    assert len(entry.preprocessing["mean"]) == len(entry.preprocessing["std"]) == entry.input_shape[1]


@pytest.mark.parametrize(
    "name", [name for name, entry in models.entries().items() if entry.module.startswith("detection.")]
)
def test_detectors_give_a_fixed_number_of_detections(name: str) -> None:
    entry = entries()[name]
    for deploy in (False, True):
        with torch.device("meta"):
            network = create(name, deploy=deploy, num_classes=7, detections=30).eval()
            found = network(torch.empty(2, *entry.input_shape[1:]))
        assert {output: tuple(found[output].shape) for output in ("boxes", "scores", "labels", "count")} == {
            "boxes": (2, 30, 4),
            "scores": (2, 30),
            "labels": (2, 30),
            "count": (2,),
        }


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_both_forms_take_the_input_that_the_entry_names(name: str) -> None:
    entry = entries()[name]
    for deploy, head in zip((False, True), entry.heads, strict=True):
        with torch.device("meta"):
            network = create(name, deploy=deploy, num_classes=7).eval()
            assert network(torch.empty(2, *entry.input_shape[1:])).shape == (2, 7)
        assert network.state_dict()[head].shape[0] == 7


@pytest.mark.parametrize(("name", "close"), [("vanilanet6", "vanillanet_6"), ("RepVGG-A0", "repvgg_a0")])
def test_unknown_name_gives_the_closest(name: str, close: str) -> None:
    with pytest.raises(SourceError, match=f"{name}.*did you mean {close}"):
        create(name)


def test_name_like_no_other_points_to_the_list() -> None:
    with pytest.raises(SourceError, match=r"'xyz' is none of the 61 networks.*`exporter models` lists them"):
        create("xyz")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vanillanet_5", {"num_clases": 3}, "option num_clases is unknown, wanted one of num_classes, in_channels"),
        ("vanillanet_5", {"num_classes": "10"}, "num_classes is '10', wanted a whole number from 1 on"),
        ("vanillanet_5", {"num_classes": True}, "num_classes is True, wanted"),
        ("vanillanet_5", {"slope": 1.5}, "slope is 1.5, wanted a number from 0 to 1"),
        ("vanillanet_5", {"pool_sizes": [38, 19, 10]}, "option pool_sizes is unknown"),
        ("vanillanet_13_x1_5_ada_pool", {"pool_sizes": [38, 19]}, "wanted a list of 3 whole numbers"),
        ("parnet_s", {"activation": "swish"}, "activation is 'swish', wanted relu or silu"),
        ("parnet_s", {"planes": [92, 192, 383, 1280]}, "make 383 an even number"),
        ("parnet_s", {"blocks": [4, 5, 5, 0]}, "the last stream, at 1/16, is the one that all fuse into"),
        ("parnet_s", {"blocks": [4, 5, 5, -1]}, "wanted a list of 4 whole numbers from 0 on"),
        ("parnet_s", {"gates": 1}, "gates is 1, wanted true or false"),
        ("repvgg_a0", {"slope": 0.5}, "option slope is unknown, wanted one of num_classes, in_channels"),
    ],
)
def test_wrong_option_is_named_in_one_line(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        create(name, **options)
    assert str(raised.value).startswith(f"{name}: ")
    assert "\n" not in str(raised.value)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(SourceError, match=r"in_channels is 0.*drop_rate is 2"):
        create("parnet_s", in_channels=0, drop_rate=2)


def test_deploy_form_takes_no_slope() -> None:
    with pytest.raises(SourceError, match=r"vanillanet_digits: slope is 0\.5, but the deploy form has no fading"):
        create("vanillanet_digits", deploy=True, slope=0.5)
