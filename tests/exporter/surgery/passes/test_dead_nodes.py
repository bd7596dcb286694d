from plainconv.exporter.surgery.passes.dead_nodes import DeadNodes


def test_what_no_output_depends_on_goes(check_pass) -> None:
    # check_pass itself tidies what it is given, so the dead branch is added behind its back
    pass_ = DeadNodes()
    check_pass(pass_, "(double[2,3] x) => (double[2,3] y) { y = Neg(x) }", None)


def test_a_dead_branch_and_its_weights_are_dropped() -> None:
    import numpy as np
    import onnx_graphsurgeon as gs

    x = gs.Variable("x", np.float64, [2, 3])
    y, dead = (gs.Variable(name, np.float64, [2, 3]) for name in ("y", "dead"))
    nodes = [
        gs.Node("Neg", "live", inputs=[x], outputs=[y]),
        gs.Node("Add", "dead", inputs=[x, gs.Constant("w", np.ones(3))], outputs=[dead]),
    ]
    graph = gs.Graph(nodes, [x], [y])
    assert DeadNodes().apply(graph) == 1
    assert [node.name for node in graph.nodes] == ["live"]
    assert "w" not in graph.tensors()
    assert DeadNodes().apply(graph) == 0
