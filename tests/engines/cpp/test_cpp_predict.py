"""`bundle-run --image` says of an image what Python's `net.predict` says, bit for bit."""

import json

import image_cases

from plainconv import engines
from plainconv.exporter.errors import PlainconvError

FORMATS = "give one of PNG, JPEG"
"""What C++ decodes; Python has more."""


def by_python(net, image):
    """Its answers as JSON has them, or why there are none."""
    try:
        return [json.loads(json.dumps(each.as_json())) for each in net.predict(image)]
    except PlainconvError as error:
        said = str(error)
        return f"{said.partition(FORMATS)[0]}{FORMATS}" if FORMATS in said else said


def by_tool(tool, folder, image, *words):
    done = tool(folder, "--image", image, "--json", "--threads", 1, *words)
    if done.returncode:
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        return done.stderr.strip().removeprefix("bundle-run: ")
    (found,) = json.loads(done.stdout)
    assert found["image"] == str(image) and not done.stderr
    return found["predictions"]


def test_the_shared_list(tool, tmp_path):
    """Given every kind of image, of preprocessing and of answer -> the same answer, or the same sentence."""
    problems = []
    for number, case in enumerate(image_cases.FILE["cases"]):
        folder, image = tmp_path / str(number), tmp_path / f"{number}.img"
        image.write_bytes(image_cases.image_file(case["image"]))
        image_cases.write_case(folder, case)
        with engines.load(folder, "onnxruntime") as net:
            wanted = by_python(net, image)
        found = by_tool(tool, folder, image)
        problems += [] if found == wanted else [f"{case['name']}: {found!s:.200}, wanted {wanted!s:.200}"]
    assert not problems, "\n".join(problems)
