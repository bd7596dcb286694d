import numpy as np
import pytest

from plainconv.exporter.surgery.passes.inline_branches import InlineBranches

BRANCHES = "<then_branch = p () => (double[2,3] a) { %s }, else_branch = q () => (double[2,3] b) { b = Neg(x) }>"
TEXT = "(double[2,3] x) => (double[2,3] y) {{ {before} y{end} = If (c) {branches} {after} }}"


def text(then: str = "a = Exp(x)", before: str = "", *, inside: bool = True) -> str:
    after = "y = Tanh(y0)" if inside else ""
    return TEXT.format(before=before, end="0" if inside else "", branches=BRANCHES % then, after=after)


@pytest.mark.parametrize(("known", "op"), [(True, "Exp"), (False, "Neg")])
@pytest.mark.parametrize("inside", [True, False])
def test_the_branch_that_is_taken_stands_in_its_place(check_pass, known: bool, op: str, inside: bool) -> None:
    result = [op, "Tanh"] if inside else [op]
    check_pass(InlineBranches(), text(inside=inside), result, {"c": np.array(known)})


@pytest.mark.parametrize("then", ["a = Identity(x)", "a = Constant<value = double[2,3] {1., 2., 3., 4., 5., 6.}>()"])
def test_a_result_of_another_graph_leaves_by_its_own_name(check_pass, then: str) -> None:
    op = then.split()[2].partition("(")[0].partition("<")[0]
    check_pass(InlineBranches(), text(then, inside=False), [op], {"c": np.array([True])})


def test_names_that_both_graphs_use_stay_apart(check_pass) -> None:
    other = (BRANCHES % "a = Abs(x)").replace("= Neg(x)", "= Sin(h)")
    before = f"h = Cos(x) k = Not(c) z = If (k) {other}"
    given = text("m = Abs(x) a = Exp(m)", before).replace("Tanh(y0)", "Add(y0, z)")
    given = given.replace("m = Abs(x)", "h2 = Abs(x) m = Abs(h2)")
    graph = check_pass(InlineBranches(), given, ["Cos", "Not", "If", "Abs", "Abs", "Exp", "Add"], {"c": np.array(True)})
    assert len({t.name for node in graph.nodes for t in node.outputs}) == len(graph.nodes)


def test_a_computed_condition_stays(check_pass) -> None:
    before = "m = ReduceSum<keepdims=0>(x) c = Greater(m, n)"
    check_pass(InlineBranches(), text(before=before), None, {"n": np.array(0.0)})
