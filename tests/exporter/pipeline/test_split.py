"""Graphs of a bundle as parts: what is written, held to the whole, replaced, and what fails leaves the bundle."""

import dataclasses
import hashlib
import json
import os
import re
import shutil

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from plainconv.exporter.bundle import Bundle, update_bundle
from plainconv.exporter.errors import CheckFailedError, EngineError, PlanError
from plainconv.exporter.onnx_file import ir_graph
from plainconv.exporter.partition import (
    LINKS,
    Link,
    Part,
    link_of_text,
    picture,
    read_model,
    wiring_of,
)
from plainconv.exporter.pipeline.build import BuildJob, build_bundle
from plainconv.exporter.pipeline.export import validate_bundle
from plainconv.exporter.pipeline.split import (
    SplitJob,
    check_split_job,
    plan_of_split,
    proposal_of_split,
    split_bundle,
)
from plainconv.exporter.progress import be_quiet

TYPED = ("fp16", "bf16", "int8", "int8+fp16", "fp8+bf16")


@pytest.fixture(autouse=True)
def _quiet():
    be_quiet(True)
    yield
    be_quiet(False)


@pytest.fixture
def bundle(branches, tmp_path):
    return branches.of("bundle", tmp_path / "b")


@pytest.fixture(scope="module")
def typed(branches, tmp_path_factory):
    """The bundle with graphs of lower precisions, each split in the best way for two devices."""
    path = branches.of("bundle", tmp_path_factory.mktemp("typed") / "b")
    with pytest.warns(match="calibrated on random images"):
        build_bundle(path, BuildJob(precisions=TYPED, engine="none"))
    split_bundle(path, SplitJob(devices=2, force=True))
    return path


def splits(path):
    return {split.precision: split for split in Bundle.open(path).splits}


def parities(path, file):
    return [p for p in Bundle.open(path).manifest.parities if p.get("file") == file]


def files(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def parts_of(path):
    return {name: data for name, data in files(path).items() if name.startswith("parts/")}


# --- what is written -----------------------------------------------------------------------------------------------


def problems_by_the_specification(path):
    """What of `splits` is not as exporter/BUNDLE.md says, by its own words and the files on disk alone."""
    data, found = json.loads((path / "manifest.json").read_bytes()), []
    sources = {link["sha256"]: "fp32" for link in data["chain"] if link["step"] == "onnx"}
    sources |= {graph["sha256"]: graph["precision"] for graph in data["graphs"]}
    network = {spec["name"]: spec for spec in data["inputs"]}
    for split in data["splits"]:
        assert set(split) == {
            "precision", "onnx_sha256", "devices", "streams", "parts", "results", "engines", "plan",
        }  # fmt: skip
        if sources[split["onnx_sha256"]] != split["precision"]:
            found.append(f"{split['precision']} is of another graph")
        given = {(None, name): spec["dtype"] for name, spec in network.items()}
        for part in split["parts"]:
            assert set(part) == {"name", "file", "sha256", "device", "stream", "inputs", "outputs", "sources"}
            if part["file"] != f"parts/{split['precision'].replace('+', '_')}/{part['name']}.onnx":
                found.append(f"{part['file']} is in another place")
            names = [part["file"], *([f"{part['file']}.data"] if (path / f"{part['file']}.data").exists() else [])]
            hashes = {name: hashlib.sha256((path / name).read_bytes()).hexdigest() for name in names}
            own = next(iter(hashes.values()))
            if len(names) > 1:
                own = hashlib.sha256("".join(f"{hashes[n]}  {n}\n" for n in sorted(names)).encode()).hexdigest()
            links = [link for link in data["chain"] if link["step"] == "part" and link["files"] == names]
            if [(link["sha256"], link["from"]) for link in links] != [(part["sha256"], split["onnx_sha256"])]:
                found.append(f"{part['name']} has links {links}")
            if own != part["sha256"]:
                found.append(f"{part['name']} has another hash")
            if not (0 <= part["device"] < split["devices"] and 0 <= part["stream"] < split["streams"]):
                found.append(f"{part['name']} is nowhere")
            graph = onnx.load(path / part["file"]).graph
            for specs, values in ((part["inputs"], graph.input), (part["outputs"], graph.output)):
                if [(s["name"], s["dtype"], s["shape"]) for s in specs] != [signature(v) for v in values]:
                    found.append(f"{part['name']} is another graph: {specs}, {list(map(signature, values))}")
            found += [
                f"{part['name']} reads {spec['name']} of nobody"
                for spec in part["inputs"]
                if given.get((part["sources"][spec["name"]], spec["name"])) != spec["dtype"]
            ]
            given |= {(part["name"], spec["name"]): spec["dtype"] for spec in part["outputs"]}
        found += [
            f"{spec['name']} is nobody's"
            for spec in data["outputs"]
            if given.get((split["results"][spec["name"]], spec["name"])) != spec["dtype"]
        ]
    return found


def signature(value):
    """An ONNX input or output as BUNDLE.md's tables name it."""
    tensor = value.type.tensor_type
    shape = [axis.dim_param or axis.dim_value for axis in tensor.shape.dim]
    return value.name, ir.DataType(tensor.elem_type).numpy().name, shape


@pytest.mark.parametrize(
    ("how", "devices", "streams"), [({"devices": 2}, 2, 1), ({"streams": 3}, 1, 3), ({"devices": 1}, 1, 2)]
)
def test_a_split_is_as_the_specification_says(branches, bundle, how, devices, streams):
    """Given devices or streams → parts, chain and wiring by BUNDLE.md; the parts measured once, and held."""
    split_bundle(bundle, SplitJob(profile=str(branches.slow), **how))
    (split,) = splits(bundle).values()
    assert (split.devices, split.engines) == (devices, ()) and 1 < split.devices * split.streams <= devices * streams
    assert len({(part.device, part.stream) for part in split.parts}) > 1
    assert problems_by_the_specification(bundle) == []
    (parity,) = parities(bundle, split.parts[0].file)
    assert (parity["step"], parity["status"]) == ("parts fp32 (ONNX Runtime)", "held")


def test_every_precision_is_split_by_default(typed):
    """Given graphs of lower precisions → each is split, each held with the rounding that its whole has."""
    found = splits(typed)
    assert tuple(found) == ("fp32", *TYPED)
    assert problems_by_the_specification(typed) == []
    tolerances = {graph.precision: graph.tolerance for graph in Bundle.open(typed).manifest.graphs}
    whole = {graph.precision: parities(typed, graph.file)[0] for graph in Bundle.open(typed).manifest.graphs}
    for precision, tolerance in tolerances.items():
        (parity,) = parities(typed, found[precision].parts[0].file)
        assert (parity["step"], parity["status"]) == (f"parts {precision}", "held")
        assert (parity["tolerance"], parity["error"]) == (tolerance, whole[precision]["error"])
    crossing = {name: {s.dtype for p in split.parts for s in p.outputs} for name, split in found.items()}
    assert "float16" in crossing["fp16"] and "bfloat16" in crossing["bf16"]
    assert {"int8", "float16"} <= crossing["int8+fp16"] and {"float8_e4m3fn", "bfloat16"} <= crossing["fp8+bf16"]


def test_validate_measures_the_parts_again(typed, tmp_path, branches):
    """Given parities that someone changed → those that are measured now, once each."""
    path = shutil.copytree(typed, tmp_path / "b")
    measured = {p["step"]: p for p in Bundle.open(path).manifest.parities}
    with update_bundle(path) as draft:
        draft.manifest.parities[:] = [p | {"error": 0.5} for p in draft.manifest.parities]
    assert validate_bundle(path, eval_data=None) == []
    again = {p["step"]: p for p in Bundle.open(path).manifest.parities}
    assert len(Bundle.open(path).manifest.parities) == len(again) and again == measured
    assert Bundle.open(path).splits == Bundle.open(typed).splits


def test_an_open_batch_stays_open(branches, tmp_path):
    """Given a network of any batch → so are its parts; they were held to it at batches 1, 2 and 3."""
    path = branches.of("open_batch", tmp_path / "b")
    split_bundle(path, SplitJob(devices=2, profile=str(branches.slow), batch=4))
    (split,) = splits(path).values()
    assert problems_by_the_specification(path) == []
    assert {spec.shape[0] for part in split.parts for spec in (*part.inputs, *part.outputs)} == {"batch"}
    assert split.plan["batch"] == 4
    made, x = {}, np.random.default_rng(0).standard_normal((5, 3, 8, 8)).astype(np.float32)
    for part in split.parts:
        session = ort.InferenceSession(path / part.file, providers=["CPUExecutionProvider"])
        feeds = {v: x if at is None else made[at, v] for v, at in part.sources.items()}
        names = [spec.name for spec in part.outputs]
        made |= {(part.name, v): y for v, y in zip(names, session.run(names, feeds), strict=True)}
    whole = ort.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(
        made[split.results["logits"], "logits"], whole.run(None, {"input": x})[0], rtol=1e-4, atol=1e-5
    )


def test_the_batch_is_what_is_planned_for(branches, tmp_path):
    """Given eight images in place of one → eight times the bytes to send."""
    path = branches.of("open_batch", tmp_path / "b")
    sent = []
    for batch in (1, 8):
        split_bundle(path, SplitJob(plan=branches.plan, batch=batch, force=True))
        proposal, _ = proposal_of_split(splits(path)["fp32"])
        sent.append(proposal.prediction.sent)
    assert sent[1] == 8 * sent[0] > 0


def test_the_plan_is_taken_as_it_is(branches, bundle):
    """Given a plan → its parts, names, order and places; and that plan comes back of the record."""
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True))
    (split,) = splits(bundle).values()
    assert plan_of_split(split) == branches.four_parts()
    assert {part.name: dict(part.sources) for part in split.parts} == {
        "stem": {"input": None},
        "left": {"r": "stem"},
        "right": {"r": "stem"},
        "head": {"t": "left", "v": "right"},
    }
    assert split.results == {"logits": "head"}
    nodes = {part.name: {node.name for node in onnx.load(bundle / part.file).graph.node} for part in split.parts}
    assert "stem" in nodes["stem"] and {"left_0", "left_1"} <= nodes["left"] and {"join", "head"} <= nodes["head"]
    assert sum(map(len, nodes.values())) == len(onnx.load(bundle / "model.onnx").graph.node)


def test_parts_that_compute_the_same_value(branches, bundle, tmp_path):
    """Given the stem on both devices → each branch takes its own device's, and the record says so."""
    again = branches.four_parts(right=Part("right", 1, 0, ("input",), ("v",)))
    stems = (Part("stem1", 1, 0, ("input",), ("r",)), *branches.four_parts().parts)
    for name, plan in (("overlap", again), ("twice", dataclasses.replace(again, parts=stems))):
        (tmp_path / f"{name}.json").write_text(plan.to_json())
        split_bundle(bundle, SplitJob(plan=tmp_path / f"{name}.json", force=True))
        assert problems_by_the_specification(bundle) == []
    sources = {part.name: dict(part.sources) for part in splits(bundle)["fp32"].parts}
    assert (sources["left"], sources["right"]) == ({"r": "stem"}, {"r": "stem1"})


def test_external_data_of_a_part(branches, bundle, monkeypatch):
    """Given weights in files of their own → linked over both; split again without, and none is left."""
    monkeypatch.setattr(ir_graph, "_BESIDE", 100)
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True))
    assert problems_by_the_specification(bundle) == []
    assert "parts/fp32/stem.onnx.data" in parts_of(bundle)
    assert {p["status"] for p in parities(bundle, "parts/fp32/stem.onnx")} == {"held"}
    monkeypatch.undo()
    be_quiet(True)
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True))
    assert problems_by_the_specification(bundle) == []
    assert sorted(parts_of(bundle)) == [f"parts/fp32/{name}.onnx" for name in ("head", "left", "right", "stem")]


def test_the_same_split_twice_is_the_same(branches, bundle):
    """Given the same job again → the same parts byte by byte, one record, one parity."""
    job = SplitJob(devices=2, profile=str(branches.slow))
    split_bundle(bundle, job)
    first, parts = splits(bundle), parts_of(bundle)
    split_bundle(bundle, job)
    assert splits(bundle) == first and parts_of(bundle) == parts
    assert len(Bundle.open(bundle).manifest.parities) == 2


def test_another_split_takes_the_place_of_the_old_one(typed, branches, tmp_path):
    """Given one precision split again → its old files and parity are gone; the other splits stay as they were."""
    path = shutil.copytree(typed, tmp_path / "b")
    before, parts = splits(path), parts_of(path)
    split_bundle(path, SplitJob(plan=branches.plan, force=True, precisions=("fp16",)))
    after = splits(path)
    assert {name: after[name] for name in before if name != "fp16"} == {n: s for n, s in before.items() if n != "fp16"}
    mine = {f"parts/fp16/{part.name}.onnx" for part in branches.four_parts().parts}
    assert {name for name in parts_of(path) if name.startswith("parts/fp16/")} == mine
    assert all(parts_of(path)[name] == data for name, data in parts.items() if not name.startswith("parts/fp16/"))
    assert parities(path, "parts/fp16/stem.onnx")[0]["status"] == "held"
    assert parities(path, before["fp16"].parts[0].file) == []
    assert problems_by_the_specification(path) == []


def test_a_graph_made_again_loses_its_split(bundle, branches):
    """Given the fp16 graph for another tolerance, made otherwise → no split of it, and none of its files, is left."""
    build_bundle(bundle, BuildJob(precisions=("fp16",), engine="none"))
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True, precisions=("fp32", "fp16")))
    assert set(splits(bundle)) == {"fp32", "fp16"}
    tighter = 0.9 * parities(bundle, "model.fp16.onnx")[0]["error"]
    build_bundle(bundle, BuildJob(precisions=("fp16",), engine="none", tolerance=tighter))
    assert set(splits(bundle)) == {"fp32"} and not (bundle / "parts" / "fp16").exists()
    assert parities(bundle, "parts/fp16/stem.onnx") == []


# --- how it was found ----------------------------------------------------------------------------------------------


def test_what_the_plan_was_found_by_is_on_record(branches, bundle):
    """Given two devices → streams of one tried first; link, placement, profile, batch and prediction on record."""
    link = link_of_text("25:10")
    split_bundle(bundle, SplitJob(devices=2, link=link, placement="transfer", profile=str(branches.slow)))
    (split,) = splits(bundle).values()
    plan = split.plan
    assert (plan["placement"], plan["profile"], plan["batch"]) == ("transfer", str(branches.slow), 1)
    assert plan["link"] == {"bandwidth": link.bandwidth, "latency": link.latency, "name": ""}
    assert plan["refusal"] is None
    assert [(each["devices"], each["streams"]) for each in plan["tried"]] == [(1, 2), (2, 1)]
    assert plan["prediction"]["seconds"] == min(each["seconds"] for each in plan["tried"])
    proposal, same = proposal_of_split(split)
    assert same == link and proposal.plan == plan_of_split(split) and proposal.prediction.speedup > 1
    assert any("13.00 ms whole" in line for line in picture(proposal, same))


def test_streams_are_taken_where_devices_do_not_pay(branches, bundle):
    """Given a link slower than the network → the streams of one device, though two were allowed."""
    split_bundle(bundle, SplitJob(devices=2, link=Link(1e6, 1.0), profile=str(branches.slow)))
    (split,) = splits(bundle).values()
    assert (split.devices, split.streams) == (1, 2)
    assert [each["refusal"] is None for each in split.plan["tried"]] == [True, False]


def test_a_forced_plan_keeps_its_refusal(branches, bundle):
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True))
    proposal, link = proposal_of_split(splits(bundle)["fp32"])
    assert "it pays from" in proposal.refusal and link == LINKS["pcie"]
    assert proposal.prediction.speedup < 1


def test_times_measured_here(bundle, branches):
    """Given "measure" → the nodes' seconds of this machine; what comes of them depends on it, what is on record not."""
    split_bundle(bundle, SplitJob(plan=branches.plan, profile="measure", force=True))
    (split,) = splits(bundle).values()
    assert split.plan["profile"] == "measure" and split.plan["prediction"]["whole"] > 0


def test_a_link_without_a_limit_comes_back(branches, bundle):
    """Given copies that only take time to start -> the link of the bundle is that link, which JSON cannot hold."""
    link = link_of_text("inf:2")
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True, link=link))
    assert proposal_of_split(splits(bundle)["fp32"])[1] == link


def test_a_file_of_the_name_of_a_part_is_not_written_through(branches, bundle):
    """Given another program's file where a part goes -> the version before keeps its bytes while the split is made."""
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True))
    (name, *_) = (part.file for part in splits(bundle)["fp32"].parts)
    with update_bundle(bundle) as draft:
        draft.remove_split("fp32")
        draft.path(name).write_bytes(b"somebody's")
    other = bundle.with_name("other")
    os.link(bundle / name, other)
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True))
    assert other.read_bytes() == b"somebody's" and (bundle / name).read_bytes() != b"somebody's"


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"link": None},
        {"link": {}},
        {"link": {"bandwidth": "fast", "latency": 0.0}, "prediction": {}, "refusal": None},
        {"link": {"bandwidth": 1.0, "latency": 0.0}, "prediction": [], "refusal": None},
        {"prediction": {}},
        {"refusal": None},
    ],
)
def test_a_split_that_another_program_made_may_say_nothing(branches, bundle, plan):
    """Given a plan section that lacks what this one writes → the split is sound, and what is missing one line."""
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True))
    with update_bundle(bundle) as draft:
        (split,) = draft.manifest.splits
        draft.manifest.splits = (dataclasses.replace(split, plan=plan),)
    (split,) = splits(bundle).values()
    assert plan_of_split(split) == branches.four_parts()
    with pytest.raises(PlanError, match="the fp32 split says nothing of how long it takes; `exporter split` again"):
        proposal_of_split(split)
    assert validate_bundle(bundle, eval_data=None) == []


@pytest.mark.parametrize(
    ("job", "wanted"),
    [
        (SplitJob(devices=2), ("fp32", *TYPED)),
        (SplitJob(streams=2), ("fp32", *TYPED)),
        (SplitJob(plan="plan.json"), ("fp32",)),
        (SplitJob(devices=2, profile="p.json"), ("fp32",)),
        (SplitJob(devices=2, precisions=("fp16", "fp32")), ("fp16", "fp32")),
        (SplitJob(plan="plan.json", precisions=("int8",)), ("int8",)),
    ],
)
def test_which_graphs_are_split(typed, job, wanted):
    """Given no precisions → all; but a plan, or a profile, is of one graph, the fp32 one."""
    assert tuple(job.names(Bundle.open(typed).manifest)) == wanted


# --- what fails leaves the bundle ----------------------------------------------------------------------------------


@pytest.fixture
def refused(bundle, tmp_path):
    """Splits that must fail: what they say, in one line; the bundle and the folder around it are as before."""

    def run(job, error=PlanError, path=bundle):
        before, beside = Bundle.open(path).sha256, sorted(tmp_path.iterdir())
        with pytest.raises(error) as raised:
            split_bundle(path, job)
        assert (Bundle.open(path).sha256, sorted(tmp_path.iterdir())) == (before, beside)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    return run


def test_one_of_three(refused, branches):
    """Given none of devices, streams and a plan, or several → refused before any bundle is opened."""
    for job, count in (
        (SplitJob(), 0),
        (SplitJob(devices=2, streams=2), 2),
        (SplitJob(devices=2, plan=branches.plan), 2),
        (SplitJob(devices=2, streams=2, plan=branches.plan), 3),
    ):
        says = f"{count} of --devices, --streams and --plan given; wanted one of them"
        assert refused(job) == says
        with pytest.raises(PlanError, match=re.escape(says)):
            check_split_job(job)


@pytest.mark.parametrize("where", [{"devices": 2}, {"streams": 2}])
def test_a_chain_is_refused_even_forced(branches, refused, tmp_path, where):
    chain = branches.of("chain", tmp_path / "c")
    for force in (False, True):
        line = refused(SplitJob(force=force, **where), path=chain)
        assert line.startswith("the network is a chain, each value waiting for the one before it: 100.0% of its")


def test_a_losing_plan_is_refused(branches, refused):
    for job in (SplitJob(devices=2), SplitJob(plan=branches.plan), SplitJob(streams=2)):
        line = refused(job)
        assert re.fullmatch(
            r"the split takes .* µs, the whole 8 µs; it pays from .*: leave it whole, or force it", line
        )


def test_everything_wrong_with_a_plan_is_said_at_once(branches, refused, tmp_path):
    """Given a hand-written plan with several problems → all of them, and nothing is written even if forced."""
    plan = branches.four_parts(
        left=Part("left", 2, 0, ("r",), ("t", "nothing")), right=Part("right", 1, 0, ("r", "input"), ("v",))
    )
    (tmp_path / "plan.json").write_text(plan.to_json())
    for force in (False, True):
        line = refused(SplitJob(plan=tmp_path / "plan.json", force=force))
        assert line.startswith("the plan does not fit the network: ")
        for problem in (
            "part left: device 2, wanted 0 to 1",
            "part left: writes nothing, which the network does not have",
            "part right: reads input, which its writes do not need",
        ):
            assert problem in line


def test_a_plan_of_another_network(branches, refused, tmp_path):
    chain = branches.of("chain", tmp_path / "c")
    line = refused(SplitJob(plan=branches.plan, force=True), path=chain)
    assert "the plan does not fit the network" in line and "writes t, which the network does not have" in line


def test_a_precision_that_the_bundle_lacks(refused):
    line = refused(SplitJob(devices=2, force=True, precisions=("fp32", "fp15")), EngineError)
    assert line == "there is no fp15 graph in the bundle, which has fp32; see `exporter build --precision`"


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ({"stem": 1e-3, "nope": 1.0, "no": 2.0}, "2 nodes that the network does not have (first: nope)"),
        ({}, "the profile has no node"),
        ({"stem": -1.0}, "1 of its times are no seconds (first: stem -1.0)"),
        ({"stem": True}, "1 of its times are no seconds (first: stem true)"),
        ({"stem": float("nan")}, "1 of its times are no seconds (first: stem NaN)"),
        ([1], "is no JSON object"),
    ],
)
def test_a_profile_that_is_none_of_this_network(refused, tmp_path, profile, says):
    (tmp_path / "p.json").write_text(json.dumps(profile))
    assert says in refused(SplitJob(devices=2, force=True, profile=str(tmp_path / "p.json")))


def test_a_type_that_this_machine_cannot_measure(typed, tmp_path, refused):
    """Given a bf16 graph, which ONNX Runtime has no kernels for on a CPU → one line, and the profile left out."""
    path = shutil.copytree(typed, tmp_path / "t")
    line = refused(SplitJob(devices=2, force=True, profile="measure", precisions=("bf16",)), path=path)
    assert line.startswith("model.bf16.onnx cannot be measured (") and line.endswith("leave the profile out")


def spoil_part(path, name, changed):
    """The bundle with the weights of one part changed, rightly hashed: what a writer with a fault would leave."""
    with update_bundle(path) as draft:
        split = draft.manifest.splits[0]
        part = next(part for part in split.parts if part.name == name)
        model = read_model(draft.file(part.file))
        weight = next(value for value in model.graph.initializers.values() if value.shape and len(value.shape) == 4)
        weight.const_value = ir.tensor(changed(weight.const_value.numpy()), name=weight.name)
        ir_graph.save(model, draft.path(part.file))
        sha256 = draft.record(part.file).sha256
        draft.manifest.chain = tuple(
            dataclasses.replace(link, sha256=sha256) if link.files == (part.file,) else link
            for link in draft.manifest.chain
        )
        parts = tuple(dataclasses.replace(p, sha256=sha256) if p is part else p for p in split.parts)
        draft.manifest.splits = (dataclasses.replace(split, parts=parts),)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_parts_that_are_not_the_whole_fail(branches, bundle, precision):
    """Given a part whose weights are a hundredth off → the parts are not the whole; as they were → they are."""
    if precision != "fp32":
        build_bundle(bundle, BuildJob(precisions=(precision,), engine="none"))
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True, precisions=(precision,)))
    spoil_part(bundle, "left", lambda w: w)
    assert validate_bundle(bundle, eval_data=None) == []

    spoil_part(bundle, "left", lambda w: (w * 1.01).astype(w.dtype))
    before = Bundle.open(bundle).sha256
    with pytest.raises(CheckFailedError, match="the parts do not recompose to the network: output logits is off by"):
        validate_bundle(bundle, eval_data=None)
    assert Bundle.open(bundle).sha256 == before


def test_a_split_that_fails_midway_takes_all_with_it(typed, branches, tmp_path, monkeypatch):
    """Given a plan that fits the fp32 graph alone → not even that one is written, and the old splits stay."""
    path = shutil.copytree(typed, tmp_path / "b")
    wiring = wiring_of(read_model(path / "model.int8.onnx"))
    assert "r" in wiring.specs and "r.quantized" in wiring.specs
    plan = branches.four_parts(
        stem=Part("stem", 0, 0, ("input",), ("r.quantized",)), left=Part("left", 0, 0, ("r.quantized",), ("t",)),
        right=Part("right", 1, 0, ("r.quantized",), ("v",)),
    )  # fmt: skip
    (tmp_path / "plan.json").write_text(plan.to_json())
    before = files(path)
    with pytest.raises(PlanError, match=r"reads r\.quantized, which the network does not have"):
        split_bundle(path, SplitJob(plan=tmp_path / "plan.json", force=True, precisions=("int8", "fp32")))
    assert files(path) == before
    split_bundle(path, SplitJob(plan=tmp_path / "plan.json", force=True, precisions=("int8",)))
    assert [part.name for part in splits(path)["int8"].parts] == ["stem", "left", "right", "head"]
