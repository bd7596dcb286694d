"""Networks cut into parts, on the doubles of CUDA and TensorRT.

A network here is a list of nodes, each (op, what it reads), whose value is v0, v1, …; `a` and `b` are its inputs, of
[batch, 4] elements. A cut is (nodes, device, stream) for each part. What it computes is elementwise, so that the parts
compute the whole's bits.
"""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from plainconv.engines.schedule import schedule_of
from plainconv.engines.tensorrt.contexts import Contexts
from plainconv.engines.tensorrt.parts import PartEngine
from plainconv.engines.tensorrt.runner import TensorRTRunner
from plainconv.exporter.bundle import PartRecord, ShapeRange, SplitRecord, TensorSpec
from plainconv.exporter.partition import Part, Plan, read_model, wiring_of, write_parts
from plainconv.exporter.partition.problems import problems_of_plan

INPUTS = ("a", "b")
DIAMOND = [("Neg", ["a"]), ("Abs", ["v0"]), ("Relu", ["v0"]), ("Add", ["v1", "v2"]), ("Mul", ["v3", "b"])]
"""A stem, two branches of it, and what joins them."""
SIDE_BY_SIDE = [([0, 1], 0, 0), ([2], 1, 0), ([3, 4], 0, 0)]
"""Its branches on two devices."""


def make_network(path, nodes, outputs, batch="batch"):
    """The ONNX file of these nodes."""
    made = [helper.make_node(op, reads, [f"v{at}"], name=f"n{at}") for at, (op, reads) in enumerate(nodes)]
    used = [name for name in INPUTS if any(name in reads for _, reads in nodes) or name in outputs]
    kinds = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, 4]) for n in some] for some in (used, outputs)
    ]
    graph = helper.make_graph(made, "split", *kinds)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


def plan_of_cut(nodes, cut, outputs):
    """The plan of a cut: each part reads what it does not compute, and writes what others or the user want of it."""
    parts = []
    for position, (own, device, stream) in enumerate(cut):
        made = [f"v{at}" for at in own]
        reads = dict.fromkeys(name for at in own for name in nodes[at][1] if name not in made)
        others = [theirs for other, (theirs, _, _) in enumerate(cut) if other != position]
        elsewhere = {
            n for theirs in others for at in theirs for n in nodes[at][1] if n not in {f"v{i}" for i in theirs}
        }
        writes = [name for name in made if name in outputs or name in elsewhere]
        parts.append(Part(f"p{position}", device, stream, tuple(reads), tuple(writes)))
    return Plan(tuple(parts), 1 + max(p.device for p in parts), 1 + max(p.stream for p in parts))


def split_of_plan(plan, wiring, batch="batch"):
    """What a bundle would say of the plan."""
    records = []
    for at, part in enumerate(plan.parts):
        specs = [tuple(TensorSpec(name, "float32", (batch, 4)) for name in some) for some in (part.reads, part.writes)]
        writers = {name: plan.writer(name, at) for name in part.reads}
        sources = {name: None if w is None else plan.parts[w].name for name, w in writers.items()}
        records.append(PartRecord(part.name, f"{part.name}.onnx", "", part.device, part.stream, *specs, sources))
    ends = {name: plan.source(name, 0) for name in wiring.outputs}
    results = {name: None if at is None else plan.parts[at].name for name, at in ends.items()}
    return SplitRecord("fp32", "", plan.devices, plan.streams, tuple(records), results)


class Split:
    """A network in parts, as files, with the whole beside them. Made once, it goes on any number of doubles."""

    def __init__(self, folder, nodes=DIAMOND, cut=SIDE_BY_SIDE, outputs=("v4",), batch="batch"):
        folder.mkdir(exist_ok=True)
        whole = make_network(folder / "whole.onnx", nodes, outputs, batch)
        model = read_model(whole)
        wiring = wiring_of(model)
        plan = plan_of_cut(nodes, cut, outputs)
        assert problems_of_plan(plan, wiring) == []
        self.files, self.batch = write_parts(model, plan, folder), batch
        self.record, self.whole = split_of_plan(plan, wiring, batch), whole
        self.schedule = schedule_of(self.record)
        self.inputs = tuple(TensorSpec(name, "float32", (batch, 4)) for name in wiring.inputs)
        self.outputs = tuple(TensorSpec(name, "float32", (batch, 4)) for name in outputs)
        self.session = onnxruntime.InferenceSession(str(whole), providers=["CPUExecutionProvider"])

    def of(self, onnx_sha256):
        """What a bundle says of it, of the graph of that hash."""
        return replace(self.record, onnx_sha256=onnx_sha256)

    def profile(self, low, high, names):
        """An optimization profile of these tensors, for these batches."""
        return {name: ShapeRange((low, 4), (low, 4), (high, 4)) for name in names}

    def inputs_of(self, batch, seed=0):
        """Inputs, by name."""
        generator = np.random.default_rng(seed)
        return {spec.name: generator.normal(size=(batch, 4)).astype(np.float32) for spec in self.inputs}

    def reference(self, inputs):
        """What the whole network gives."""
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self.session.run(names, inputs), strict=True))

    def parts(self, standin_tensorrt, cuda, devices, batches=((1, 4),), captures=True, scratch=0, refuses=None):
        """An engine of each part. `batches` are those of the profiles; `refuses` what the engine of a part does not."""
        made = []
        for step, file in zip(self.schedule.steps, self.files, strict=True):
            reads = [spec.name for spec in step.part.inputs]
            profiles = tuple(self.profile(low, high, reads) for low, high in batches)
            cuda.current = devices[step.place[0]]
            engine = standin_tensorrt.Engine(cuda, file, profiles, scratch)
            engine.refuses = (refuses or {}).get(step.part.name, ())
            contexts = Contexts(engine.create_execution_context, captures, scratch)
            made.append(PartEngine(step.part.name, engine, contexts, cuda.current, profiles))
        cuda.current = 0
        return made

    def runner(self, standin_tensorrt, cuda, devices, batches=((1, 4),), timeout=60.0, parts=None, **options):
        """A runner on the doubles, with its engines by name as `runner.engines`."""
        parts = parts or self.parts(standin_tensorrt, cuda, devices, batches, **options)
        runner = TensorRTRunner(
            self.schedule,
            parts,
            cuda.cuda,
            devices=devices,
            backend="tensorrt",
            precision="fp32",
            inputs=self.inputs,
            outputs=self.outputs,
            profiles=tuple(self.profile(low, high, [s.name for s in self.inputs]) for low, high in batches),
            timeout=timeout,
        )
        runner.engines = {part.name: part.engine for part in parts}
        return runner
