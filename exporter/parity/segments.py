"""An ONNX graph in ONNX Runtime, cut at some of its values: each piece is run by itself on the inputs it ought to get.

Given   y = f_n(… f_2(f_1(x))), values v_1, v_2, … between, and what each v_i ought to be, w_i
Result  f_i(w_{i−1}) for each i: off by what this piece does alone, whatever went wrong before it
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime as ort

from ..errors import one_line
from ..onnx_module.by_reference import names_read
from .onnx_run import session_options

SMALL, FEW_WEIGHTS = 64 << 20, 4 << 20
"""Bytes of a graph whose sessions are kept; of a piece that runs on one thread."""
GROUPS = 3
"""In how many turns values are read in an optimized graph: of neighbours that could be fused, one is read at a time."""

_BOUNDED = {"Sigmoid", "Tanh", "Erf", "Softmax"}


class Segments:
    """`model`, of float32 between its nodes, cut at `values`, which it computes; what reads them reads `read_as`.

    `names` is the values that there are, in the order of their nodes; `nodes` the name of the node that gives each,
    `within` the names of all nodes of its piece, and `reads` those of all values that these read from elsewhere;
    `bounded` is those values that a function between −1 and 1 gives, see `parity.layers`.
    """

    def __init__(self, model: onnx.ModelProto, values: Iterable[str], read_as: Mapping[str, str] | None = None) -> None:
        self.model = model
        self._makers = {name: node for node in model.graph.node for name in node.output if name}
        self._order = {id(node): i for i, node in enumerate(model.graph.node)}
        wanted = set(values)
        self.names = [name for name in self._makers if name in wanted]
        self.nodes = {name: self._makers[name].name or self._makers[name].op_type for name in self.names}
        read = {name: (read_as or {}).get(name, name) for name in self.names}
        self.bounded = frozenset(name for name in self.names if self._makers[name].op_type in _BOUNDED)
        self._cuts = {read[name]: name for name in self.names}
        self._ends = read
        self._pieces = {name: self._piece(read[name]) for name in self.names}
        self.within = {name: frozenset(node.name for node in nodes) for name, (nodes, _) in self._pieces.items()}
        self.reads = {name: frozenset(read) for name, (_, read) in self._pieces.items()}
        self._sessions: dict[str, ort.InferenceSession | str] = {}
        self._whole: dict[tuple[str, ...], ort.InferenceSession] = {}
        self._is_small = model.ByteSize() < SMALL

    def local(self, inputs: Sequence[np.ndarray], right: Mapping[str, np.ndarray]) -> Iterator[tuple[str, object]]:
        """Each value as its piece computes it from the `right` ones before it, or in words why it does not run."""
        feeds = self._feeds(inputs)
        for name in self.names:
            session = self._session(name)
            if isinstance(session, str):
                yield name, session
                continue
            given = {
                each.name: right[self._cuts[each.name]] if each.name in self._cuts else feeds[each.name]
                for each in session.get_inputs()
            }
            try:
                yield name, session.run(None, given)[0]
            except Exception as error:  # ONNX Runtime's own exceptions have no common base
                yield name, one_line(error, 160)

    def free(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """All the values in one run of the graph as it is; none where it does not run."""
        try:
            return dict(zip(self.names, self._run(self.names, inputs, optimized=False), strict=True))
        except Exception:  # as above: what fails shows by itself, piece by piece
            return {}

    def optimized(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The same with ONNX Runtime's optimizer, which may fuse what is not read: read in `GROUPS` turns."""
        found: dict[str, np.ndarray] = {}
        try:
            for turn in range(min(GROUPS, len(self.names))):
                names = self.names[turn::GROUPS]
                found |= zip(names, self._run(names, inputs, optimized=True), strict=True)
        except Exception:  # as above
            return {}
        return found

    def _run(self, names: Sequence[str], inputs: Sequence[np.ndarray], *, optimized: bool) -> list[np.ndarray]:
        key = (str(optimized), *names)
        session = self._whole.get(key)
        if session is None:
            model = onnx.ModelProto()
            model.CopyFrom(self.model)
            del model.graph.output[:]
            model.graph.output.extend(onnx.ValueInfoProto(name=self._ends[name]) for name in names)
            session = _session_of(model, optimized=optimized)
            if self._is_small:  # else its weights would be held once for each way of running it
                self._whole[key] = session
        return list(session.run(None, self._feeds(inputs)))

    def _feeds(self, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        held = {tensor.name for tensor in self.model.graph.initializer}
        specs = [each for each in self.model.graph.input if each.name not in held]
        types = [onnx.helper.tensor_dtype_to_np_dtype(each.type.tensor_type.elem_type) for each in specs]
        return {s.name: x.astype(t, copy=False) for s, x, t in zip(specs, inputs, types, strict=True)}

    def _piece(self, end: str) -> tuple[list[onnx.NodeProto], set[str]]:
        """The nodes that lead to a value from the cuts and the graph's inputs, and the names that they read."""
        nodes: dict[int, onnx.NodeProto] = {}
        read: set[str] = set()
        waiting = [end]
        while waiting:
            name = waiting.pop()
            node = self._makers.get(name)
            if (name in self._cuts and name != end) or node is None:
                read.add(name)
            elif id(node) not in nodes:
                nodes[id(node)] = node
                waiting += filter(None, names_read(node))
        return sorted(nodes.values(), key=lambda node: self._order[id(node)]), read

    def _session(self, name: str) -> ort.InferenceSession | str:
        if name not in self._sessions:
            nodes, read = self._pieces[name]
            model = onnx.ModelProto(ir_version=self.model.ir_version)
            model.opset_import.extend(self.model.opset_import)
            model.functions.extend(self.model.functions)
            graph = model.graph
            graph.name = "piece"
            graph.node.extend(nodes)
            graph.initializer.extend(t for t in self.model.graph.initializer if t.name in read)
            graph.input.extend(each for each in self.model.graph.input if each.name in read)
            cuts = sorted(read & self._cuts.keys())
            graph.input.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in cuts)
            graph.output.add(name=self._ends[name])
            try:
                self._sessions[name] = _session_of(model, optimized=False)
            except Exception as error:  # as above
                self._sessions[name] = one_line(error, 160)
        return self._sessions[name]


def _session_of(model: onnx.ModelProto, *, optimized: bool) -> ort.InferenceSession:
    options = session_options(optimized=optimized)
    options.log_severity_level = 4  # what fails is said by us
    if model.ByteSize() < FEW_WEIGHTS:
        options.intra_op_num_threads = 1  # a pool of threads for each small piece costs more than it gains
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
