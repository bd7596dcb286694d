"""`exporter split`, `inspect --plan` and `run --devices`: what they print, and what they refuse in one line."""

import dataclasses
import errno
import json
import os
import stat

import pytest
from places import ASSETS

from plainconv.exporter.bundle import Bundle, update_bundle
from plainconv.exporter.cli.main import main
from plainconv.exporter.cli.split import _splits_of
from plainconv.exporter.errors import PlanError
from plainconv.exporter.partition import LINKS, plan_of_json
from plainconv.exporter.pipeline.split import SplitJob, split_bundle
from plainconv.exporter.progress import be_quiet


@pytest.fixture(autouse=True)
def _loud_again():
    yield
    be_quiet(False)


@pytest.fixture
def bundle(branches, tmp_path):
    return branches.of("bundle", tmp_path / "b")


@pytest.fixture(scope="module")
def split(branches, tmp_path_factory):
    """The bundle with its fp32 and fp16 graphs split, each by another way."""
    path = branches.of("bundle", tmp_path_factory.mktemp("split") / "b")
    build = ["build", str(path), "--engine", "none", "--precision", "fp16"]
    ours = ["split", str(path), "--plan", str(branches.plan), "--force"]
    slow = ["split", str(path), "--devices", "2", "--profile", str(branches.slow)]
    for job in (build, [*ours, "--precision", "fp16"], slow):
        assert main([*job, "--quiet", "--json"]) == 0
    be_quiet(False)
    return path


def parts_of(path):
    return {file.name: file.read_bytes() for file in sorted((path / "parts").rglob("*.onnx*"))}


def out(capsys, *arguments):
    """What a command prints that must succeed, and say nothing else."""
    assert main([*map(str, arguments), "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out


# --- what is printed -----------------------------------------------------------------------------------------------


def test_split_prints_the_parts_on_a_timeline(branches, bundle, capsys):
    """Given a split → parts, copies, the longest path, the verdict and what else was tried; `inspect` the same."""
    shown = out(capsys, "split", bundle, "--devices", "2", "--profile", branches.slow)
    for words in (
        f"fp32, batch 1, by {branches.slow}",
        "parts on 2 devices over pcie",
        "device0.0",
        "sent: ",
        "longest path: ",
        "13.00 ms whole: 1.44×",
        "tried: 1 device, 2 streams, 9.03 ms",
        "tried: 2 devices, 9.02 ms",
    ):
        assert words in shown
    assert out(capsys, "inspect", bundle, "--plan") == shown
    said = " ".join(out(capsys, "inspect", bundle).replace("│", " ").split())
    assert "split ┃ parts ┃ devices ┃ streams ┃ sent ┃ predicted ┃ part engines" in said
    assert "fp32 3 2 1 0.00 MB 1.44× none" in said


@pytest.mark.parametrize(("options", "says"), [((), "the times of an A100"), (("measure",), "times measured here")])
def test_what_it_was_planned_by_is_said(branches, bundle, capsys, options, says):
    profile = [f"--profile={option}" for option in options]
    shown = out(capsys, "split", bundle, "--plan", branches.plan, "--force", *profile)
    assert f"fp32, batch 1, by {says}" in shown


def test_a_forced_split_says_that_it_does_not_pay(branches, bundle, capsys):
    shown = out(capsys, "split", bundle, "--plan", branches.plan, "--force", "--link", "25:10")
    assert "4 parts on 2 devices over 25 GB/s, 10 µs" in shown
    assert "does not pay: the split takes" in shown and "leave it whole, or force it" in shown


def test_fewer_devices_than_asked_for(branches, bundle, capsys):
    """Given three devices asked for and one that pays → the first line says so; forced, they are devices."""
    shown = out(capsys, "split", bundle, "--devices", "3", "--profile", branches.slow, "--link", "1:100")
    assert shown.splitlines()[0].startswith("planned for 1 device, 2 streams of the 3 asked for, which do not pay")
    with update_bundle(bundle) as draft:
        draft.remove_split("fp32")
    out(capsys, "split", bundle, "--devices", "3", "--profile", branches.slow, "--link", "1:100", "--force")
    assert all(split.devices > 1 for split in Bundle.open(bundle).splits)


def test_a_way_without_a_plan_is_said_too(branches, bundle, capsys):
    """Given kernels that fill the device as it is → streams, tried first, have nothing to run; the reason is shown."""
    shown = out(capsys, "split", bundle, "--streams", "2", "--profile", branches.slow)
    assert "parts on 1 device, 2 streams" in shown and "nothing is sent from device to device" in shown
    with update_bundle(bundle) as draft:
        (split,) = draft.manifest.splits
        tried = [{"devices": None, "streams": None, "seconds": None, "refusal": "its kernels fill it"}]
        draft.manifest.splits = (dataclasses.replace(split, plan={**split.plan, "tried": tried}),)
    assert "tried: its kernels fill it" in out(capsys, "inspect", bundle, "--plan").splitlines()


def test_json_of_split_is_that_of_the_bundle(branches, bundle, capsys):
    said = json.loads(out(capsys, "split", bundle, "--plan", branches.plan, "--force", "--json"))
    (split,) = said["splits"]
    assert [part["name"] for part in split["parts"]] == ["stem", "left", "right", "head"]
    assert [p["step"] for p in said["parities"]] == ["ONNX (ONNX Runtime)", "parts fp32 (ONNX Runtime)"]
    assert json.loads(out(capsys, "inspect", bundle, "--json"))["splits"] == said["splits"]


def test_inspect_shows_every_split_or_the_one_asked_for(split, branches, capsys):
    shown = out(capsys, "inspect", split, "--plan")
    half = out(capsys, "inspect", split, "--plan", "--precision", "fp16")
    whole = out(capsys, "inspect", split, "--plan", "--precision", "fp32")
    assert half.startswith("fp16, batch 1") and whole.startswith("fp32, batch 1")
    assert shown == half + whole
    text = out(capsys, "inspect", split, "--plan", "--precision", "fp16", "--json")
    assert plan_of_json(text) == branches.four_parts()


@pytest.mark.parametrize(
    "how", [("--devices", "2"), ("--streams", "3"), ("--devices", "3", "--placement", "recompute")]
)
def test_a_plan_that_is_shown_makes_the_same_parts_again(branches, bundle, tmp_path, capsys, how):
    """Given the plan that `inspect --plan --json` prints → `split --plan` makes the same parts, byte for byte."""
    out(capsys, "split", bundle, *how, "--profile", branches.slow)
    parts, text = parts_of(bundle), out(capsys, "inspect", bundle, "--plan", "--json")
    (tmp_path / "plan.json").write_text(text)
    other = branches.of("bundle", tmp_path / "other")
    for path in (bundle, other):
        out(capsys, "split", path, "--plan", tmp_path / "plan.json", "--force")
        assert parts_of(path) == parts
        assert out(capsys, "inspect", path, "--plan", "--json") == text
    assert branches.four_parts().to_json() == branches.plan.read_text()


def test_splits_of_a_bundle(split):
    opened = Bundle.open(split)
    assert [each.precision for each in _splits_of(opened, None)] == ["fp16", "fp32"]
    assert [each.precision for each in _splits_of(opened, "fp32")] == ["fp32"]
    with pytest.raises(PlanError, match=r"has no split of precision int8 \(it has fp16, fp32\); make one with"):
        _splits_of(opened, "int8")


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "0 of --devices, --streams and --plan given; wanted one of them"),
        (("--devices", "2", "--streams", "2"), "2 of --devices, --streams and --plan given; wanted one of them"),
        (("--devices", "0"), "argument --devices: '0' is not a whole number from 1 to 64"),
        (("--devices", "65"), "argument --devices: '65' is not a whole number from 1 to 64"),
        (("--devices", "two"), "argument --devices: 'two' is not a whole number from 1 to 64"),
        (("--devices=-1",), "argument --devices: '-1' is not a whole number from 1 to 64"),
        (("--streams", "65"), "argument --streams: '65' is not a whole number from 1 to 64"),
        (("--devices", "2", "--batch", "0"), "argument --batch: '0' is not a whole number from 1 to"),
        (("--devices", "2", "--placement", "best"), "argument --placement: invalid choice: 'best'"),
        (("--devices", "2", "--precision", "fp32,"), "'fp32,' is not a list of names"),
        (("--devices", "2", "--force", "--precision", "fp15"), "there is no fp15 graph in the bundle, which has fp32"),
        (("--devices", "2", "--link", "usb"), "link 'usb'; wanted pcie, nvlink, or GB/s:µs such as 25:10"),
        (("--devices", "2", "--link", "0:1"), "link '0:1'; wanted"),
        (("--devices", "2", "--link", "1:-1"), "link '1:-1'; wanted"),
        (("--devices", "2", "--link", "nan:1"), "link 'nan:1'; wanted"),
        (("--devices", "2", "--link", ""), "link ''; wanted"),
        (("--devices", "2"), "leave it whole, or force it"),
        (("--streams", "2"), "leave it whole, or force it"),
    ],
)
def test_a_split_that_cannot_be_is_one_line(bundle, said_once, arguments, says):
    assert says in said_once(bundle, "split", bundle, *arguments)


def _directory(path):
    path.mkdir()


def _bytes(content):
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize("option", ["--plan", "--profile"])
@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda path: None, "f.json cannot be read"),
        (_directory, "f.json cannot be read"),
        (_bytes(b"\xff\xfe"), "f.json cannot be read"),
        (_bytes(b""), "JSON ("),
        (_bytes(b"{"), "JSON ("),
        (_bytes(b"["), "JSON ("),
        (_bytes(b"[" * 200_000), "JSON ("),
        (_bytes(b"[]"), "wanted an object|is no JSON object"),
        (_bytes(b'{"devices": 2}'), "parts is missing|nodes that the network does not have (first: devices)"),
        (_bytes(b'{"stem": -1}'), "unknown key 'stem'|are no seconds (first: stem -1)"),
        (_bytes(b'{"stem": "1"}'), "unknown key 'stem'|are no seconds (first: stem \"1\")"),
        (_bytes(b'{"stem": 1, "more": 1}'), "unknown key 'more'|1 nodes that the network does not have (first: more)"),
    ],
)
def test_a_file_that_is_no_plan_or_profile_is_one_line(bundle, tmp_path, said_once, option, write, says):
    write(tmp_path / "f.json")
    devices = () if option == "--plan" else ("--devices", "2")
    line = said_once(bundle, "split", bundle, *devices, "--force", option, tmp_path / "f.json")
    assert any(words in line for words in says.split("|")), line


def test_a_chain_is_one_line(tmp_path, capsys, said_once):
    """Given VanillaNet, a chain → exit code 2 and the reason, forced or not."""
    chain, weights = tmp_path / "c", ASSETS / "vanillanet_digits.pth"
    out(capsys, "export", "vanillanet_digits", "--checkpoint", weights, "-o", chain, "--skip-end-to-end")
    for force in ((), ("--force",)):
        for how in (("--devices", "2"), ("--streams", "4")):
            line = said_once(chain, "split", chain, *how, *force)
            assert "the network is a chain, each value waiting for the one before it" in line
            assert line.endswith("leave it whole")


def test_a_plan_with_problems_names_them_all(branches, bundle, tmp_path, said_once):
    (tmp_path / "p.json").write_text(branches.plan.read_text().replace('"t"', '"w"').replace('"right"', '"left"'))
    line = said_once(bundle, "split", bundle, "--plan", tmp_path / "p.json", "--force")
    for problem in (
        "2 parts are called left",
        "writes w, which the network does not have",
        "reads w, which the network",
    ):
        assert problem in line


def test_a_plan_of_another_network_is_one_line(branches, tmp_path, said_once):
    chain = branches.of("chain", tmp_path / "c")
    line = said_once(chain, "split", chain, "--plan", branches.plan, "--force")
    assert "the plan does not fit the network" in line and "writes v, which the network does not have" in line


def test_a_graph_that_cannot_be_measured_is_one_line(bundle, capsys, said_once):
    out(capsys, "build", bundle, "--engine", "none", "--precision", "bf16")
    arguments = ("--precision", "bf16", "--profile", "measure", "--devices", "2", "--force")
    line = said_once(bundle, "split", bundle, *arguments)
    assert "model.bf16.onnx cannot be measured (" in line and line.endswith("; leave the profile out")


def test_a_bundle_that_cannot_be_written_is_one_line(branches, bundle, said_once, monkeypatch):
    """Given a read-only folder around the bundle → one line. Simulated: a superuser may write anywhere."""
    real, no = os.mkdir, PermissionError(errno.EACCES, "Permission denied", "there")
    monkeypatch.setattr(
        os, "mkdir", lambda path, *a: (_ for _ in ()).throw(no) if ".tmp-" in str(path) else real(path, *a)
    )
    line = said_once(bundle, "split", bundle, "--plan", branches.plan, "--force")
    assert "b cannot be written (Permission denied: there); see to its folder" in line


def test_files_that_are_read_only_are_replaced(branches, bundle, capsys):
    """Given a bundle whose files may not be written → the new version beside it takes its place all the same."""
    for file in bundle.rglob("*"):
        if file.is_file():
            file.chmod(stat.S_IRUSR)
    out(capsys, "split", bundle, "--plan", branches.plan, "--force")
    out(capsys, "split", bundle, "--plan", branches.plan, "--force")
    assert len(Bundle.open(bundle).splits[0].parts) == 4


@pytest.mark.parametrize("command", ["split", "inspect"])
def test_no_bundle_is_one_line(tmp_path, capsys, command):
    options = ["--devices", "2"] if command == "split" else ["--plan"]
    assert main([command, str(tmp_path), *options, "--quiet"]) == 2
    assert "not a bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--plan",), "b has no split (it has none); make one with `exporter split`"),
        (("--plan", "--json"), "b has no split (it has none); make one with `exporter split`"),
        (("--plan", "--precision", "fp16"), "b has no split of precision fp16 (it has none); make one with"),
        (
            ("--precision", "fp32"),
            "--precision given without --plan or --device; give one of them too, or leave it out",
        ),
    ],
)
def test_inspect_without_a_split_is_one_line(bundle, said_once, options, says):
    assert says in said_once(bundle, "inspect", bundle, *options)


@pytest.mark.parametrize("plan", [{"tried": None}, {"prediction": {"whole": None, "seconds": 1, "edges": None}}])
def test_inspect_of_a_plan_that_another_program_wrote(branches, bundle, capsys, plan):
    """Given null for what this program says of a split -> it is listed, and what is known is shown."""
    split_bundle(bundle, SplitJob(plan=branches.plan, force=True))
    with update_bundle(bundle) as draft:
        (split,) = draft.manifest.splits
        draft.manifest.splits = (dataclasses.replace(split, plan=split.plan | plan),)
    capsys.readouterr()
    assert "fp32" in out(capsys, "inspect", bundle)
    if "tried" in plan:
        assert "tried" not in out(capsys, "inspect", bundle, "--plan")


# --- run -----------------------------------------------------------------------------------------------------------


def test_run_splits_what_it_exports(branches, tmp_path, capsys):
    """Given devices → the split of each graph in the bundle, as `export` and `split` make it; seconds on record."""
    job = ("run", branches.source, "-o", tmp_path / "b", "--engine", "none", "--json")
    said = json.loads(out(capsys, *job, "--devices", "2", "--profile", branches.slow))
    assert [split["precision"] for split in said["splits"]] == ["fp32"] and said["engines"] == []
    assert {"split", "part engines"} <= set(said["seconds"])
    assert [p["status"] for p in said["parities"]] == ["held", "held"]
    other = branches.of("bundle", tmp_path / "other")
    out(capsys, "split", other, "--devices", "2", "--profile", branches.slow)
    assert parts_of(tmp_path / "b") == parts_of(other)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--link", "nvlink"), "--link given, and nothing is split; give --devices N too, or leave it out"),
        (("--placement", "transfer"), "--placement given, and nothing is split; give --devices N too"),
        (("--profile", "measure"), "--profile given, and nothing is split; give --devices N too"),
        (("--devices", "0"), "argument --devices: '0' is not a whole number from 1 to 64"),
        (("--devices", "2", "--link", "x:y"), "link 'x:y'; wanted pcie, nvlink, or GB/s:µs"),
        (("--devices", "2", "--profile", "nope.json"), "nope.json cannot be read as JSON"),
        (("--devices", "2"), "leave it whole, or force it"),
    ],
)
def test_run_that_cannot_split_leaves_nothing(branches, tmp_path, said_once, bundle, options, says):
    """Given options that make no sense, or a network that loses → one line, and no bundle; one there is kept."""
    for target in (tmp_path / "new", bundle):
        job = ("run", branches.source, "-o", target, "--engine", "none", "--force", "--quiet")
        assert says in said_once(bundle, *job, *options)


def test_run_says_so_before_the_network_is_loaded(tmp_path, bundle, said_once):
    """Given a network that does not exist and a profile that does not → the profile is what is said."""
    line = said_once(
        bundle, "run", "nope.onnx", "-o", tmp_path / "new", "--engine", "none", "--devices", "2", "--profile", "p.json"
    )
    assert "p.json cannot be read as JSON" in line


def test_links_by_name(branches, bundle, capsys):
    """Given a link by name → that one's figures on record."""
    for name, link in LINKS.items():
        out(capsys, "split", bundle, "--plan", branches.plan, "--force", "--link", name)
        assert Bundle.open(bundle).splits[0].plan["link"] == dataclasses.asdict(link)


def test_floor_of_a_bundle(bundle, capsys):
    """Given a device → each graph's floor and what it is made of, as a table and as JSON; unknown ones in one line."""
    assert main(["inspect", str(bundle), "--device", "h100", "--latency", "1"]) == 0
    assert "H100" in (out := capsys.readouterr().out) and "measured / floor" in out
    assert main(["inspect", str(bundle), "--device", "a100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    floor = found["graphs"]["fp32"]
    layers = sum(layer["us"] for layer in floor["layers"])
    assert floor["floor_ms"] * 1e3 == pytest.approx(layers + floor["launches_ms"] * 1e3) and floor["depth"] > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--device", "tpu"), "no device is called 'tpu'; wanted one of a100"),
        (("--device", "a100", "--precision", "int4"), "has no int4 graph (it has fp32"),
        (("--latency", "1"), "--latency given without --device"),
        (("--device", "a100", "--plan"), "both --plan and --device given"),
    ],
)
def test_floor_that_cannot_be_is_one_line(bundle, said_once, options, says):
    assert says in said_once(bundle, "inspect", bundle, *options)
