"""One ONNX graph as parts that run side by side, on several devices or on several streams of one.

`propose` finds the plan by which a network ends soonest, from what each node costs and what a link takes, and says
where none pays; `Plan.problems` checks any plan, hand-written ones too; `write_parts` makes an ONNX file of each part.
Nothing here knows of any one network, and nothing imports torch.
"""

from .cost import A100, LINKS, MACS_ALONE, Device, Link, link_of_text, read_profile
from .parts import check_recomposed, file_of_part, parts_of_plan, recomposed, write_parts
from .picture import picture
from .plan import Part, Plan, plan_of_json, read_plan
from .planner import PLACEMENTS, Network, Proposal, judged, network_of_model, propose, whole_plan
from .predict import Edge, PartTime, Prediction, predict, prediction_of_json
from .profile import measured_profile, profile_of_wiring
from .shapes import shapes_at
from .simulate import HOME
from .wiring import Spec, Wiring, prepared, read_model, wiring_of

__all__ = [
    "A100",
    "HOME",
    "LINKS",
    "MACS_ALONE",
    "PLACEMENTS",
    "Device",
    "Edge",
    "Link",
    "Network",
    "Part",
    "PartTime",
    "Plan",
    "Prediction",
    "Proposal",
    "Spec",
    "Wiring",
    "check_recomposed",
    "file_of_part",
    "judged",
    "link_of_text",
    "measured_profile",
    "network_of_model",
    "parts_of_plan",
    "picture",
    "plan_of_json",
    "predict",
    "prediction_of_json",
    "prepared",
    "profile_of_wiring",
    "propose",
    "read_model",
    "read_plan",
    "read_profile",
    "recomposed",
    "shapes_at",
    "whole_plan",
    "wiring_of",
    "write_parts",
]
