from typing import Any

import onnx_graphsurgeon as gs

from ..base import Pass
from ..edit import add_node, detach, find_outputs, fresh, is_constant, redirect, root_of


class InlineBranches(Pass):
    """if c then f(x) else g(x) is f(x) where c is true, g(x) where it is not.

    Given  an If whose condition is known
    Result the nodes of the branch that is taken, in its place
    """

    name = "inline-branches"
    within = True

    def rewrite(self, graph: gs.Graph, node: Any) -> bool:  # noqa: D102
        if node.op != "If" or (node.domain or "") not in ("", "ai.onnx"):
            return False
        condition = node.inputs[0]
        if not is_constant(condition) or condition.values.size != 1:
            return False
        taken, other = "then_branch", "else_branch"
        if not bool(condition.values.reshape(-1)[0]):
            taken, other = other, taken
        _drop(node.attrs[other])
        _inline(graph, node, node.attrs[taken])
        find_outputs(graph)
        return True


def _drop(branch: gs.Graph) -> None:
    """Nothing in the branch reads anything any more."""
    for inner in (branch, *branch.subgraphs(recursive=True)):
        for node in inner.nodes:
            node.inputs.clear()
            node.outputs.clear()


def _inline(graph: gs.Graph, node: Any, branch: gs.Graph) -> None:
    place = next(i for i, other in enumerate(graph.nodes) if other is node)
    outputs, results, nodes = list(node.outputs), list(branch.outputs), list(branch.nodes)
    del node.attrs["then_branch"], node.attrs["else_branch"]
    detach(graph, node)
    graph.nodes[place:place] = nodes
    _rename(graph, branch)
    for output, result in zip(outputs, results, strict=True):
        redirect(output, result)
        for inner in graph.subgraphs(recursive=True):
            inner.outputs[:] = [result if t is output else t for t in inner.outputs]
        if any(t is output for t in graph.outputs):
            _leave(graph, output, result, nodes)


def _leave(graph: gs.Graph, output: Any, result: Any, nodes: list[Any]) -> None:
    """Let `result` leave the graph under the name that it is known by outside."""
    maker = next((n for n in nodes if any(t is result for t in n.outputs)), None)
    if maker is None or any(t is result for t in graph.outputs):
        add_node(graph, "Identity", [result], output, name=output.name)
        return
    maker.outputs[next(i for i, t in enumerate(maker.outputs) if t is result)] = output
    redirect(result, output)
    for inner in graph.subgraphs(recursive=True):
        inner.outputs[:] = [output if t is result else t for t in inner.outputs]


def _rename(graph: gs.Graph, branch: gs.Graph) -> None:
    """Give what the branch makes names that nothing else has: the branches of another If may use the same ones."""
    inner, root = (branch, *branch.subgraphs(recursive=True)), root_of(graph)
    own = {id(t): t for g in inner for node in g.nodes for t in node.outputs if not t.is_empty()}
    own |= {id(t): t for g in inner for t in g.tensors().values() if is_constant(t)}
    own |= {id(t): t for g in inner for t in g.inputs}
    everywhere = (root, *root.subgraphs(recursive=True))
    taken = {t.name for g in everywhere for t in g.tensors().values() if id(t) not in own}
    for tensor in own.values():
        if tensor.name in taken:
            tensor.name = fresh(graph, tensor.name)
