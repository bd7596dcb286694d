"""Splits in a bundle: what a manifest may say of them, and how a draft adds, replaces and removes them."""

import hashlib
import json
import math
from dataclasses import fields, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from plainconv.exporter.bundle import (
    Bundle,
    EngineRecord,
    FileRecord,
    GraphRecord,
    Link,
    Manifest,
    PartRecord,
    ShapeRange,
    SplitRecord,
    TensorSpec,
    sha256_of_files,
    update_bundle,
    write_bundle,
)
from plainconv.exporter.bundle.codec import bytes_of_manifest, manifest_of_bytes
from plainconv.exporter.bundle.rules import problems
from plainconv.exporter.errors import BundleError

X = TensorSpec("x", "float32", ("batch", 3))
Y = TensorSpec("y", "float32", ("batch", 10))
A = TensorSpec("a", "float32", ("batch", 8))
B = TensorSpec("b", "float8_e4m3fn", ("batch", 4))
RANGE = ShapeRange((1, 8), (4, 8), (8, 8))


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def engine_of(part, **changes):
    record = EngineRecord(
        file=f"engines/{part}/e.engine",
        backend="tensorrt_rtx",
        backend_version="1.7.1.116",
        precision="fp32",
        tf32=False,
        targets=("sm86",),
        device=None,
        profiles=({"a": RANGE},),
        seconds=0.25,
        size=3,
        sha256=sha(f"engine of {part}"),
        onnx_sha256=sha(part),
        log=f"engines/{part}/e.log",
    )
    return replace(record, **changes)


def part_of(name, device, inputs, outputs, folder="fp32"):
    """A part whose inputs are given with where they come from."""
    specs, sources = tuple(spec for spec, _ in inputs), {spec.name: source for spec, source in inputs}
    return PartRecord(name, f"parts/{folder}/{name}.onnx", sha(name), device, 0, specs, outputs, sources)


def a_manifest():
    """The fp32 graph on two devices, with an engine of one part; the fp16 graph as one part."""
    parts = (
        part_of("stem", 0, [(X, None)], (A,)),
        part_of("far", 1, [(A, "stem")], (B,)),
        part_of("tail", 0, [(X, None), (A, "stem"), (B, "far")], (Y,)),
    )
    half = part_of("half", 0, [(X, None)], (Y,), "fp16")
    engine = engine_of("far")
    graph = GraphRecord("model.fp16.onnx", "fp16", sha("fp16"), sha("onnx"), {"fp16": 3}, "reference.npz", 0.1)
    own = [Link("part", part.sha256, sha("onnx"), (part.file,)) for part in parts]
    return Manifest(
        name="net",
        inputs=(X,),
        outputs=(Y,),
        chain=(
            Link("source", sha("source")),
            Link("onnx", sha("onnx"), sha("source"), ("model.onnx",)),
            Link("typed", sha("fp16"), sha("onnx"), (graph.file,)),
            *own,
            Link("part", half.sha256, sha("fp16"), (half.file,)),
            Link("part-engine", engine.sha256, engine.onnx_sha256, (engine.file,)),
        ),
        graphs=(graph,),
        splits=(
            SplitRecord("fp32", sha("onnx"), 2, 1, parts, {"y": "tail"}, (engine,), {"batch": 1}),
            SplitRecord("fp16", sha("fp16"), 1, 1, (half,), {"y": "half"}),
        ),
        files={
            "model.onnx": FileRecord(2, sha("onnx")),
            "reference.npz": FileRecord(2, sha("reference")),
            graph.file: FileRecord(2, sha("fp16")),
            **{part.file: FileRecord(1, part.sha256) for part in (*parts, half)},
            engine.file: FileRecord(3, engine.sha256),
            str(engine.log): FileRecord(1, sha("log")),
        },
        written="2026-01-02T03:04:05Z",
    )


def seal(data):
    """Any JSON value as a manifest with a right hash: what another program might write."""
    blank = json.dumps(data | {"manifest_sha256": "0" * 64}, sort_keys=True, indent=2) + "\n"
    own = hashlib.sha256(blank.encode()).hexdigest()
    return blank.replace('\n  "manifest_sha256": "' + "0" * 64, '\n  "manifest_sha256": "' + own).encode()


def as_data():
    return json.loads(bytes_of_manifest(a_manifest()))


def refused_as(data):
    """Why a reader refuses the manifest; empty where it does not."""
    try:
        return problems(manifest_of_bytes(seal(data)))
    except BundleError as error:
        return [str(error)]


# --- what a manifest may say ---------------------------------------------------------------------------------------


def test_splits_survive_their_bytes():
    manifest = a_manifest()
    raw = bytes_of_manifest(manifest)
    assert manifest_of_bytes(raw) == manifest and bytes_of_manifest(manifest_of_bytes(raw)) == raw
    assert problems(manifest) == []


def test_a_manifest_without_splits_opens(tmp_path):
    """Given a bundle from before there were splits, which has no such key → it opens, and has none."""
    data = as_data()
    del data["splits"]
    data["chain"] = [link for link in data["chain"] if not link["step"].startswith("part")]
    manifest = manifest_of_bytes(seal(data))
    assert manifest.splits == () and problems(manifest) == []
    target = write(tmp_path / "v")
    text = (target / "manifest.json").read_text()
    assert '\n  "splits": [],\n' in text
    (target / "manifest.json").write_bytes(seal(json.loads(text.replace('\n  "splits": [],\n', "\n"))))
    assert "splits" not in json.loads((target / "manifest.json").read_text())
    assert Bundle.open(target).splits == ()
    with update_bundle(target) as draft:
        add_split(draft)
    assert [split.precision for split in Bundle.open(target).splits] == ["fp32"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "splits is None, wanted list"),
        ({}, r"splits is \{\}, wanted list"),
        (["fp32"], r"splits\[0\].precision is missing"),
        ([{"precision": "fp32"}], r"splits\[0\].onnx_sha256 is missing"),
    ],
)
def test_splits_of_another_shape_are_one_line(change, message):
    with pytest.raises(BundleError, match=message) as raised:
        manifest_of_bytes(seal(as_data() | {"splits": change}))
    assert "\n" not in str(raised.value)


def test_where_it_is_wrong_is_a_path():
    """Given a list missing inside a split -> the path to it, from the top of the manifest."""
    for keys, path in ((("parts",), "splits[0].parts"), (("parts", 1, "inputs"), "splits[0].parts[1].inputs")):
        data = as_data()
        inner = data["splits"][0]
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        assert refused_as(data)[0].startswith(f"manifest.json: {path} is missing, wanted list")


def test_a_name_with_a_line_break_is_one_line():
    """Given names that only a stranger would give -> each problem on one line."""
    good = a_manifest()
    part = replace(good.splits[0].parts[1], name="far\n\x1b[31m", device=9)
    split = replace(good.splits[0], parts=(good.splits[0].parts[0], part, good.splits[0].parts[2]))
    found = problems(replace(good, splits=(split, good.splits[1])))
    assert found and not any(c < " " for problem in found for c in problem)
    assert any(r"far\x0a\x1b[31m" in problem for problem in found)


def test_a_part_without_a_name_is_refused():
    good = a_manifest()
    half = good.splits[1]
    nameless = replace(half, parts=(replace(half.parts[0], name=""),), results={"y": ""})
    assert problems(replace(good, splits=(good.splits[0], nameless))) == ["split fp16: part  has no name"]


@pytest.mark.parametrize("key", [field.name for field in fields(SplitRecord)])
def test_a_split_that_lacks_a_member_is_one_line(key):
    data = as_data()
    del data["splits"][0][key]
    with pytest.raises(BundleError, match=rf"{key} is missing, wanted"):
        manifest_of_bytes(seal(data))


@pytest.mark.parametrize("key", [field.name for field in fields(PartRecord)])
def test_a_part_that_lacks_a_member_is_one_line(key):
    data = as_data()
    del data["splits"][0]["parts"][1][key]
    with pytest.raises(BundleError, match=rf"{key} is missing, wanted"):
        manifest_of_bytes(seal(data))


@pytest.mark.parametrize("key", [field.name for field in fields(EngineRecord)])
def test_an_engine_of_a_part_that_lacks_a_member_is_one_line(key):
    data = as_data()
    del data["splits"][0]["engines"][0][key]
    with pytest.raises(BundleError, match=rf"splits\[0\]\.engines\[0\]\.{key} is missing"):
        manifest_of_bytes(seal(data))


TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | TEXT | st.just(sha("stem")),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


def is_count(value, least):
    return type(value) is int and value >= least


@given(key=st.sampled_from([field.name for field in fields(SplitRecord)]), value=JSON)
def test_a_split_with_any_member_changed_is_refused(key, value):
    """Given another value of any member, rightly hashed → refused in one line, unless nothing else says the same."""
    data = as_data()
    assume(value != data["splits"][0][key] or type(value) is bool)
    data["splits"][0][key] = value
    free = {"devices": is_count(value, 2), "streams": is_count(value, 1), "plan": isinstance(value, dict)}
    found = refused_as(data)
    assert bool(found) != free.get(key, False), (found, key, value)
    assert not any("\n" in problem for problem in found)


@given(part=st.integers(0, 2), key=st.sampled_from([field.name for field in fields(PartRecord)]), value=JSON)
def test_a_part_with_any_member_changed_is_refused(part, key, value):
    data = as_data()
    assume(value != data["splits"][0]["parts"][part][key] or type(value) is bool)
    data["splits"][0]["parts"][part][key] = value
    found = refused_as(data)
    assert bool(found) != (key == "device" and is_count(value, 0) and value < 2), (found, key, value)
    assert not any("\n" in problem for problem in found)


@given(
    at=st.sampled_from([3, 6, 7]), key=st.sampled_from(["step", "sha256", "from", "files"]), value=JSON
)  # two parts' links, one part's engine's
def test_a_link_of_a_split_with_any_member_changed_is_refused(at, key, value):
    data = as_data()
    assume(value != data["chain"][at][key])
    data["chain"][at][key] = value
    assert refused_as(data)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"file": "engines/stem/e.engine"}, "engine engines/stem/e.engine is not among the files"),
        ({"size": 4}, "is not among the files with the size and sha256 of its record"),
        ({"sha256": sha("x")}, "is not among the files with the size and sha256 of its record"),
        ({"onnx_sha256": sha("onnx")}, "is not linked to the ONNX graph it was built from"),
        ({"onnx_sha256": sha("stem")}, "is not linked to the ONNX graph it was built from"),
        ({"targets": ()}, "has targets [], wanted at least one"),
        ({"profiles": ({"x": RANGE},)}, "has an optimization profile that is none of the model's inputs"),
        ({"profiles": ({"b": RANGE},)}, "has an optimization profile that is none of the model's inputs"),
        ({"profiles": ({"a": replace(RANGE, min=(9, 8))},)}, "has an optimization profile that is none"),
        ({"profiles": ({"a": ShapeRange((1,), (1,), (1,))},)}, "has an optimization profile that is none"),
        ({"log": "engines/far/x.log"}, "has a log engines/far/x.log, which is not among the files"),
    ],
)
def test_an_engine_of_a_part_is_held_to_its_part(change, says):
    good = a_manifest()
    split = replace(good.splits[0], engines=(replace(good.splits[0].engines[0], **change),))
    found = problems(replace(good, splits=(split, good.splits[1])))
    assert any(says in problem for problem in found), found


def test_an_engine_of_a_typed_part_is_of_its_precision():
    """Given an engine of the fp16 part → it must say fp16, and stand with the fp16 split; else it is named."""
    good = a_manifest()
    whole, half = good.splits
    off = "engine engines/half/e.engine is fp32, but was built from the fp16 graph"
    for precision, at, wanted in (("fp16", 1, ""), ("fp32", 1, off), ("fp16", 0, "is not linked to the ONNX graph")):
        engine = engine_of("half", precision=precision, profiles=(), log=None)
        splits = [whole, half]
        splits[at] = replace(splits[at], engines=(*splits[at].engines, engine))
        found = problems(
            replace(
                good,
                splits=tuple(splits),
                chain=(*good.chain, Link("part-engine", engine.sha256, engine.onnx_sha256, (engine.file,))),
                files=good.files | {engine.file: FileRecord(3, engine.sha256)},
            )
        )
        assert any(wanted in problem for problem in found) if wanted else found == []


def test_what_a_manifest_may_not_say_of_splits():
    """Given splits, parts, links and files that disagree → each problem is named."""
    good = a_manifest()
    split, other = good.splits
    stem, far, tail = split.parts
    before, (own, *rest) = good.chain[:3], good.chain[3:]

    def of(**changes):
        return replace(good, splits=(replace(split, **changes), other))

    def part(at, **changes):
        parts = list(split.parts)
        parts[at] = replace(parts[at], **changes)
        return of(parts=tuple(parts))

    def link(**changes):
        return replace(good, chain=(*before, replace(own, **changes), *rest))

    without_far = {name: record for name, record in good.files.items() if name != far.file}
    data = {f"{stem.file}.data": FileRecord(1, sha("data"))}
    not_linked = "split fp32: part stem is not linked to the graph it is a part of: the chain is broken"
    cases = [
        (of(precision="fp16"), "split fp16 is not of the fp16 graph of the bundle"),
        (of(precision="int8"), "split int8 is not of the int8 graph of the bundle"),
        (of(onnx_sha256=sha("fp16")), "split fp32 is not of the fp32 graph of the bundle"),
        (of(onnx_sha256=sha("source")), "split fp32 is not of the fp32 graph of the bundle"),
        (
            replace(good, graphs=(), chain=(*before[:2], own, *rest)),
            "split fp16 is not of the fp16 graph of the bundle",
        ),
        (of(devices=1), "part far is on device 1, stream 0, which the split does not have"),
        (of(devices=0), "is for 0 devices of 1 streams, wanted 1 to 1024 of each"),
        (of(devices=2**40), "is for 1099511627776 devices of 1 streams, wanted 1 to 1024 of each"),
        (of(streams=0), "is for 2 devices of 0 streams, wanted 1 to 1024 of each"),
        (of(parts=()), "has no parts, or two of one name"),
        (part(1, name="STEM"), "has no parts, or two of one name"),
        (part(0, device=-1), "part stem is on device -1, stream 0"),
        (part(0, stream=1), "part stem is on device 0, stream 1, which the split does not have"),
        (part(0, file=far.file), "part stem is not linked"),
        (part(0, file="model.onnx"), "part stem is not linked"),
        (part(0, sha256=sha("x")), not_linked),
        (part(0, outputs=()), "part stem has no outputs, or names one twice"),
        (part(0, outputs=(A, A)), "part stem has no outputs, or names one twice"),
        (part(2, inputs=(X, A, B, B)), "part tail has no inputs, or names one twice"),
        (part(0, outputs=(replace(A, dtype="float4"),)), "part stem outputs: a has dtype 'float4', wanted one of bool"),
        (part(0, outputs=(replace(A, shape=(0,)),)), "part stem outputs: a has shape [0]"),
        (part(0, outputs=(A, replace(A, name=""))), "part stem outputs: a tensor has no name"),
        (part(0, inputs=(replace(X, dtype="float16"),)), "part stem reads x of the network, which does not give it"),
        (part(1, inputs=(replace(A, dtype="float16"),)), "reads a of stem, which does not give it as float16 before"),
        (part(1, sources={}), "part far has sources for other inputs than its own"),
        (part(1, sources={"a": "stem", "x": None}), "part far has sources for other inputs than its own"),
        (part(1, sources={"a": None}), "part far reads a of the network, which does not give it as float32 before"),
        (part(1, sources={"a": "far"}), "part far reads a of far, which does not give it"),
        (part(1, sources={"a": "tail"}), "part far reads a of tail, which does not give it"),
        (part(1, sources={"a": "half"}), "part far reads a of half, which does not give it"),
        (part(0, sources={"x": "tail"}), "part stem reads x of tail, which does not give it"),
        (of(parts=(far, stem, tail)), "part far reads a of stem, which does not give it as float32 before"),
        (of(parts=(stem, far)), "output y is taken from tail, which do not give it"),
        (of(results={}), "its results are not the outputs of the network"),
        (of(results={"y": "tail", "a": "stem"}), "its results are not the outputs of the network"),
        (of(results={"y": "stem"}), "output y is taken from stem, which do not give it"),
        (of(results={"y": None}), "output y is taken from the inputs, which do not give it"),
        (part(2, outputs=(replace(Y, dtype="float16"),)), "output y is taken from tail, which do not give it"),
        (replace(good, splits=(split,)), "the chain has 4 part links for 3 parts"),
        (replace(good, splits=(split, other, other)), "the chain has 4 part links for 5 parts, and no precision is"),
        (replace(good, splits=()), "the chain has 4 part links for 0 parts"),
        (of(engines=()), "the chain has 1 part-engine links for 0 engine records"),
        (of(engines=split.engines * 2), "the chain has 1 part-engine links for 2 engine records"),
        (replace(good, engines=split.engines), "is not linked to the ONNX graph it was built from"),
        (replace(good, chain=(*before, *rest)), not_linked),
        (replace(good, chain=(*before, own, own, *rest)), not_linked),
        (replace(good, files=without_far), f"chain[4] (part) names {far.file}, which is not among the files"),
        (replace(good, files=good.files | data), not_linked),
        (link(parent=sha("source")), not_linked),
        (link(parent=sha("fp16")), not_linked),
        (link(sha256=sha("x")), "chain[3] (part) does not have the hash of parts/fp32/stem.onnx"),
        (link(files=()), not_linked),
        (link(step="plain"), not_linked),
        (replace(good, chain=(*good.chain[:-1], replace(rest[-1], step="engine"))), "engine engines/far/e.engine is n"),
    ]
    for manifest, wanted in cases:
        assert any(wanted in problem for problem in problems(manifest)), (wanted, problems(manifest))


def test_an_output_that_is_an_input_comes_from_no_part():
    """Given a network that hands an input through → its result is null, and nothing is wrong."""
    good = a_manifest()
    splits = tuple(replace(split, results={**split.results, "x": None}) for split in good.splits)
    assert problems(replace(good, outputs=(Y, X), splits=splits)) == []


def test_values_of_one_name_of_two_parts_are_kept_apart():
    """Given the stem computed on both devices → each reader names whose it takes; both hold."""
    good = a_manifest()
    split = good.splits[0]
    again = part_of("again", 1, [(X, None)], (A,))
    far = replace(split.parts[1], sources={"a": "again"})
    for parts in ((split.parts[0], again, far, split.parts[2]), (again, split.parts[0], far, split.parts[2])):
        manifest = replace(
            good,
            splits=(replace(split, parts=parts), good.splits[1]),
            chain=(*good.chain, Link("part", again.sha256, sha("onnx"), (again.file,))),
            files=good.files | {again.file: FileRecord(1, again.sha256)},
        )
        assert problems(manifest) == []


def test_external_data_of_a_part_belongs_to_its_link():
    """Given a part's .data file → its link, its record and its engine's parent have the hash of the two."""
    good = a_manifest()
    split = good.splits[0]
    far, engine = split.parts[1], split.engines[0]
    names = (far.file, f"{far.file}.data")
    files = good.files | {names[1]: FileRecord(1, sha("data"))}
    own = sha256_of_files({name: files[name] for name in names})
    chain = list(good.chain)
    chain[4], chain[7] = replace(chain[4], sha256=own, files=names), replace(chain[7], parent=own)
    parts = (split.parts[0], replace(far, sha256=own), split.parts[2])
    changed = replace(split, parts=parts, engines=(replace(engine, onnx_sha256=own),))
    assert problems(replace(good, files=files, chain=tuple(chain), splits=(changed, good.splits[1]))) == []


@given(st.floats() | st.text(max_size=5))
def test_the_plan_is_a_section_that_may_say_anything(value):
    """Given any plan, or an empty one → it opens, with what JSON can hold."""
    good = a_manifest()
    for plan in ({}, {"prediction": None, "tried": [value]}):
        split = replace(good.splits[0], plan=plan)
        manifest = manifest_of_bytes(bytes_of_manifest(replace(good, splits=(split, good.splits[1]))))
        assert problems(manifest) == []
        if plan and not (isinstance(value, float) and not math.isfinite(value)):
            assert manifest.splits[0].plan == plan


# --- drafts --------------------------------------------------------------------------------------------------------


def write(target):
    with write_bundle(target) as draft:
        draft.manifest.inputs, draft.manifest.outputs = (X,), (Y,)
        draft.path("model.onnx").write_bytes(b"graph")
        draft.link("source", sha256=sha("source"))
        draft.link_onnx()
    return target


def add_split(draft, precision="fp32", content=b"part", names=("stem", "tail"), data=()):
    """Two parts, one after the other; those in `data` with weights in a file of their own."""
    folder = precision.replace("+", "_")
    records = []
    wiring = (([(X, None)], (A,)), ([(A, names[0])], (Y,)))
    for name, (inputs, outputs) in zip(names, wiring, strict=True):
        part = part_of(name, 0, inputs, outputs, folder)
        draft.path(part.file).write_bytes(content + name.encode() + precision.encode())
        if name in data:
            draft.path(f"{part.file}.data").write_bytes(b"weights")
        records.append(part)
    graphs = {graph.precision: graph.sha256 for graph in draft.manifest.graphs}
    graphs["fp32"] = next(link.sha256 for link in draft.manifest.chain if link.step == "onnx")
    stale = (engine_of("nobody"),)  # a record that comes with engines loses them
    return draft.add_split(
        SplitRecord(precision, graphs[precision], 1, 1, tuple(records), {"y": names[1]}, stale, {"batch": 1})
    )


def add_graph(draft, content, precision="fp16"):
    file = f"model.{precision.replace('+', '_')}.onnx"
    draft.path(file).write_bytes(content)
    onnx = next(link.sha256 for link in draft.manifest.chain if link.step == "onnx")
    return draft.add_graph(GraphRecord(file, precision, "", onnx, {precision: 1}, "model.onnx", 0.1))


def add_engine(draft, part, precision="fp32", name="a", content=b"engine", log=True):
    """An engine of a part, and what was measured of it."""
    file = f"engines/{part.name}/{precision}-{name}"
    draft.path(f"{file}.engine").write_bytes(content + part.name.encode())
    if log:
        draft.path(f"{file}.log").write_bytes(b"built")
    at = draft.record(f"{file}.engine")
    draft.add_engine(
        engine_of(
            part.name, file=f"{file}.engine", precision=precision, profiles=(), size=at.size, sha256=at.sha256,
            onnx_sha256=part.sha256, log=f"{file}.log" if log else None,
        )
    )  # fmt: skip
    draft.manifest.parities.append({"step": "engine", "file": f"{file}.engine"})


def files_of(target):
    return sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())


def steps_of(bundle):
    return [link.step for link in bundle.manifest.chain]


def test_a_split_is_linked_and_hashed(tmp_path):
    """Given parts, one with external data → each record has the hash of its link, which starts at the graph."""
    target = write(tmp_path / "v")
    with update_bundle(target) as draft:
        graph = add_graph(draft, b"half", "int8+fp16")
        added = add_split(draft, data=("tail",)), add_split(draft, "int8+fp16")
    bundle = Bundle.open(target)
    assert bundle.splits == added and all(split.engines == () for split in added)
    links = [link for link in bundle.manifest.chain if link.step == "part"]
    parts = [part for split in added for part in split.parts]
    assert [(link.sha256, link.parent) for link in links] == [
        (part.sha256, split.onnx_sha256) for split in added for part in split.parts
    ]
    assert {split.onnx_sha256 for split in added} == {bundle.onnx_sha256, graph.sha256}
    assert links[1].files == ("parts/fp32/tail.onnx", "parts/fp32/tail.onnx.data")
    assert parts[2].file == "parts/int8_fp16/stem.onnx"
    assert parts[0].sha256 == hashlib.sha256((target / parts[0].file).read_bytes()).hexdigest()


def test_engines_of_parts_go_to_their_split(tmp_path):
    """Given engines of the whole and of parts → each where it belongs, its link from its own graph."""
    target = write(tmp_path / "v")
    with update_bundle(target) as draft:
        split = add_split(draft)
        for part in split.parts:
            add_engine(draft, part)
        whole = next(link for link in draft.manifest.chain if link.step == "onnx")
        draft.path("engines/whole.engine").write_bytes(b"whole")
        at = draft.record("engines/whole.engine")
        record = engine_of("far", file="engines/whole.engine", profiles=(), size=at.size, sha256=at.sha256)
        draft.add_engine(replace(record, onnx_sha256=whole.sha256, log=None))
    bundle = Bundle.open(target)
    assert [engine.file for engine in bundle.engines] == ["engines/whole.engine"]
    (split,) = bundle.splits
    assert [engine.onnx_sha256 for engine in split.engines] == [part.sha256 for part in split.parts]
    links = {link.files: link.parent for link in bundle.manifest.chain if link.step == "part-engine"}
    assert links == {(engine.file,): engine.onnx_sha256 for engine in split.engines}


def test_an_engine_of_a_part_in_the_place_of_another(tmp_path):
    """Given the same file again → one record, one link, one parity: those of the new one."""
    target = write(tmp_path / "v")
    with update_bundle(target) as draft:
        stem, tail = add_split(draft).parts
        for part, name in ((stem, "a"), (stem, "b"), (tail, "a")):
            add_engine(draft, part, name=name)
    with update_bundle(target) as draft:
        add_engine(draft, stem, content=b"another engine")
    bundle = Bundle.open(target)
    names = ["engines/stem/fp32-b.engine", "engines/tail/fp32-a.engine", "engines/stem/fp32-a.engine"]
    assert [engine.file for engine in bundle.splits[0].engines] == names
    assert [p["file"] for p in bundle.manifest.parities] == names
    assert steps_of(bundle).count("part-engine") == 3
    assert bundle.file(names[2]).read_bytes() == b"another enginestem"


def test_a_split_in_the_place_of_another(tmp_path):
    """Given a split removed and another added → no file, link, engine or parity of the old one is left."""
    target = write(tmp_path / "v")
    with update_bundle(target) as draft:
        add_graph(draft, b"half")
        for part in add_split(draft, data=("stem", "tail")).parts:
            add_engine(draft, part)
            add_engine(draft, part, name="b", log=False)
        other = add_split(draft, "fp16")
        add_engine(draft, other.parts[0], "fp16")
        draft.manifest.parities += [{"step": "parts", "file": "parts/fp32/stem.onnx"}, {"step": "whole"}]
    old = Bundle.open(target)
    with update_bundle(target) as draft:
        draft.remove_split("fp32")
        new = add_split(draft, content=b"other", names=("stem", "end"))
    bundle = Bundle.open(target)
    assert bundle.splits == (old.splits[1], new) and new.engines == ()
    assert files_of(target) == [
        "engines/stem/fp16-a.engine", "engines/stem/fp16-a.log", "manifest.json", "model.fp16.onnx", "model.onnx",
        "parts/fp16/stem.onnx", "parts/fp16/tail.onnx", "parts/fp32/end.onnx", "parts/fp32/stem.onnx",
    ]  # fmt: skip
    assert [p.get("file", p["step"]) for p in bundle.manifest.parities] == ["engines/stem/fp16-a.engine", "whole"]
    assert sorted(steps_of(bundle)) == ["onnx", "part", "part", "part", "part", "part-engine", "source", "typed"]
    assert old.splits[0].parts[0].sha256 not in [link.sha256 for link in bundle.manifest.chain]


def test_the_old_version_keeps_its_parts(tmp_path):
    """Given a draft that replaces a split and is then given up → the old files are as they were."""
    target = write(tmp_path / "v")
    with update_bundle(target) as draft:
        add_split(draft)
    before = {name: (target / name).read_bytes() for name in files_of(target)}
    with pytest.raises(KeyboardInterrupt), update_bundle(target) as draft:
        draft.remove_split("fp32")
        add_split(draft, content=b"other")
        raise KeyboardInterrupt
    assert {name: (target / name).read_bytes() for name in files_of(target)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_removing_the_last_split_leaves_no_folder(tmp_path):
    target = write(tmp_path / "v")
    before = files_of(target)
    with update_bundle(target) as draft:
        add_engine(draft, add_split(draft, data=("stem",)).parts[0])
    with update_bundle(target) as draft:
        draft.remove_split("fp32")
        draft.remove_split("fp32")  # there is none any more
        draft.remove_split("int8")
    bundle = Bundle.open(target)
    assert files_of(target) == before and bundle.splits == ()
    assert steps_of(bundle) == ["source", "onnx"] and bundle.manifest.parities == []


def test_a_graph_in_the_place_of_another_takes_its_split_with_it(tmp_path):
    """Given a graph made again → its split is gone with parts and engines; unless it is the same; the others stay."""
    target = write(tmp_path / "v")
    with update_bundle(target) as draft:
        add_graph(draft, b"half")
        for precision in ("fp32", "fp16"):
            add_engine(draft, add_split(draft, precision).parts[1], precision)
    whole, half = Bundle.open(target).splits
    with update_bundle(target) as draft:
        add_graph(draft, b"half")
    assert Bundle.open(target).splits == (whole, half)
    with update_bundle(target) as draft:
        add_graph(draft, b"another half")
    bundle = Bundle.open(target)
    assert bundle.splits == (whole,)
    assert files_of(target) == [
        "engines/tail/fp32-a.engine", "engines/tail/fp32-a.log", "manifest.json", "model.fp16.onnx", "model.onnx",
        "parts/fp32/stem.onnx", "parts/fp32/tail.onnx",
    ]  # fmt: skip
    assert [p["file"] for p in bundle.manifest.parities] == ["engines/tail/fp32-a.engine"]
    assert sorted(steps_of(bundle)) == ["onnx", "part", "part", "part-engine", "source", "typed"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (add_split, "is not linked to the graph it is a part of"),
        (lambda draft: add_split(draft, content=b"again"), r"chain\[2\] \(part\) does not have the hash"),
        (lambda draft: draft.path("parts/fp32/stem.onnx").write_bytes(b"other"), r"chain\[2\] \(part\) does not have"),
        (lambda draft: draft.path("parts/fp32/stem.onnx.data").write_bytes(b"w"), "is not linked to the graph"),
        (lambda draft: draft.remove("parts/fp32/tail.onnx"), "which is not among the files"),
    ],
)
def test_a_draft_whose_split_is_broken_is_not_written(tmp_path, spoil, says):
    """Given a split twice, or a part changed, given data or lost after it was linked → named, nothing written."""
    target = write(tmp_path / "v")
    before = Bundle.open(target).sha256
    with pytest.raises(BundleError, match=says), update_bundle(target) as draft:
        add_split(draft)
        spoil(draft)
    assert Bundle.open(target).sha256 == before and [path.name for path in tmp_path.iterdir()] == ["v"]


@pytest.mark.parametrize("name", ["parts/fp32/stem.onnx", "parts/fp32/tail.onnx.data", "engines/stem/fp32-a.engine"])
@pytest.mark.parametrize("harm", ["byte", "missing"])
def test_a_file_of_a_split_that_was_changed(tmp_path, name, harm):
    """Given a part, its weights or its engine damaged or missing → the bundle does not open, by the file's name."""
    target = write(tmp_path / "v")
    with update_bundle(target) as draft:
        add_engine(draft, add_split(draft, data=("tail",)).parts[0])
    if harm == "byte":
        raw = (target / name).read_bytes()
        (target / name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    else:
        (target / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is {'damaged' if harm == 'byte' else 'missing'}"):
        Bundle.open(target)


def test_a_bundle_with_a_split_is_replaced_whole(tmp_path):
    """Given a damaged bundle with parts and their engines → nothing in it is foreign: --force replaces it."""
    target = write(tmp_path / "v")
    with update_bundle(target) as draft:
        add_engine(draft, add_split(draft, data=("tail",)).parts[0])
    (target / "manifest.json").write_text('{"format": "plainconv-bundle", damaged')
    with write_bundle(target, force=True) as draft:
        draft.manifest.inputs, draft.manifest.outputs = (X,), (Y,)
        draft.path("model.onnx").write_bytes(b"new")
        draft.link("source", sha256=sha("source"))
        draft.link_onnx()
    assert files_of(target) == ["manifest.json", "model.onnx"]
