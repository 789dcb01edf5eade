"""History entries and rejections of a server, valid or not."""

import pytest

from facecdm.comfy_api.errors import BadAnswer, JobFailed, JobInterrupted
from facecdm.comfy_api.history import read_entry, rejection


def entry(status="success", messages=(), outputs=None):
    return {"status": {"status_str": status, "messages": list(messages)}, "outputs": outputs or {}}


def test_previews_are_no_saved_pictures():
    shown = {
        "7": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}], "text": ["hello"]},
        "8": {"images": [{"filename": "b.png", "subfolder": "", "type": "temp"}], "animated": [False]},
    }
    finished = read_entry("id", entry(outputs=shown))
    assert [output.filename for output in finished.images()] == ["a.png"]
    assert [output.filename for output in finished.outputs] == ["a.png", "b.png"]
    assert finished.ui["7"]["text"] == ["hello"]


def test_an_error_names_node_and_message():
    data = {"node_id": 3, "node_type": "KSampler", "exception_message": "boom\n", "traceback": ["a", "b"]}
    with pytest.raises(JobFailed, match=r"node 3 \(KSampler\) failed: boom$") as caught:
        read_entry("id", entry("error", [["execution_start", {}], ["execution_error", data]]))
    assert caught.value.traceback == "ab"


def test_an_interrupt_is_not_a_failure():
    with pytest.raises(JobInterrupted):
        read_entry("id", entry("error", [["execution_interrupted", {}]]))


@pytest.mark.parametrize(
    "nonsense",
    [
        None,
        3,
        [],
        {},
        {"status": None, "outputs": {}},
        {"status": {"status_str": "success", "messages": 3}},
        entry(outputs={"1": []}),
        entry(outputs={"1": {"images": [{"filename": 3, "type": "output"}]}}),
    ],
)
def test_invalid_entries(nonsense):
    with pytest.raises(BadAnswer):
        read_entry("id", nonsense)


def test_rejections_in_lines():
    answer = {
        "error": {"message": "Prompt outputs failed validation", "details": ""},
        "node_errors": {"5": {"class_type": "LoadImage", "errors": [{"message": "Bad", "details": "no x.png"}]}},
    }
    assert rejection(answer) == ["node 5 (LoadImage): Bad: no x.png"]
    assert rejection({"error": {"message": "No prompt", "details": ""}}) == ["No prompt"]
    assert rejection({"prompt_id": "x", "node_errors": {}}) == []
    assert rejection(3) == []


@pytest.mark.parametrize("errors", [7, {"5": 3}, {"5": {"errors": 1}}, {"5": {"errors": [2]}}])
def test_invalid_rejections(errors):
    with pytest.raises(BadAnswer, match="cannot be read"):
        rejection({"error": "no", "node_errors": errors})
