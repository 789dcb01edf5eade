"""A plan against a server's /object_info: all mistakes at once, no valid value refused."""

import asyncio
import copy
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from standin import INFO, NODES, make_plan

from facecdm.apps.batch.errors import PlanMistake
from facecdm.apps.batch.execution.server import Server
from facecdm.apps.batch.plan import Plan
from facecdm.apps.batch.plan.check import check
from facecdm.apps.batch.plan.jobs import build, prompt_of
from facecdm.apps.batch.plan.nodes import mistakes_of
from facecdm.apps.portrait import WORKFLOW
from facecdm.comfy_api.client import Client
from facecdm.comfy_api.workflow import Workflow


def prepare(plan: Plan, infos: dict):
    return build(check(plan, infos))


def mistakes(plan: Plan, **infos) -> list[str]:
    with pytest.raises(PlanMistake, match="nothing was queued") as message:
        prepare(plan, infos or {"here": INFO})
    return message.value.mistakes


def test_all_mistakes_at_once(tmp_path):
    plan = make_plan(
        tmp_path,
        name="x",
        inputs={
            "seed": "Draw it.seed",
            "style": "Draw.style",
            "model": "1.model_name",
            "person": "Draw it.image",
            "typo": "Draw it.sede",
            "missing": "Nobody.text",
            "images": "Save.images",
            "unused": "Draw it.text",
        },
        jobs=[
            {"seed": [1, 5000, "x"]},
            {"style": "dotted"},
            {"model": "big.safetensors"},
            {"person": ["gone.png", "old.png"]},
            {"typo": 1},
            {"missing": 1},
            {"images": 1},
            {"lost": 1},
            {"state": 1},
        ],
    )
    message = "\n".join(mistakes(plan))
    for line in (
        "5000 is more than 1000",
        "'x' is not a whole number",
        "'dotted' is not one of the choices; there are plain, striped",
        "no model file 'big.safetensors'; there are small.safetensors, large.safetensors",
        "no file 'gone.png', neither beside the plan nor on the server",
        "no input 'sede'; its inputs are:",
        "has no node 'Nobody'",
        "is linked to node 1",
        "'unused' gets no value",
        "inputs, 'lost': no input is known for it",
        "'state' is a column of results.csv",
        "would both be 'x'",
    ):
        assert line in message, line
    assert "old.png" not in message


def test_the_workflow_itself_is_checked(tmp_path):
    nodes = copy.deepcopy(NODES)
    nodes["1"]["inputs"]["style"] = "dotted"
    del nodes["1"]["inputs"]["text"]
    nodes["2"]["inputs"]["images"] = ["9", 0]
    nodes["3"] = {"class_type": "Gone", "inputs": {}}
    nodes["4"] = {"class_type": "Save", "inputs": {"images": ["1", 3], "filename_prefix": ["1", 0]}}
    message = "\n".join(mistakes(make_plan(tmp_path, workflow=nodes)))
    for line in (
        "'dotted' is not one of the choices",
        "input 'text' is missing",
        "linked to node 9, which is not there",
        "no node class Gone",
        "output 3 of node 1, which has 1",
        "takes STRING, but is linked to IMAGE",
    ):
        assert line in message, line


def test_nodes_without_output_are_not_checked(tmp_path):
    nodes = {**NODES, "7": {"class_type": "Draw", "inputs": {"style": "dotted"}}}
    assert len(prepare(make_plan(tmp_path, workflow=nodes), {"here": INFO}).jobs) == 12


def test_a_workflow_that_saves_nothing(tmp_path):
    assert "no node that saves" in mistakes(make_plan(tmp_path, workflow={"1": NODES["1"]}))[0]


def test_a_mistake_on_one_server_names_it(tmp_path):
    other = copy.deepcopy(INFO)
    other["Draw"]["input"]["required"]["model_name"] = [["other.safetensors"]]
    message = mistakes(make_plan(tmp_path), here=INFO, there=other)
    assert len(message) == 1 and message[0].endswith("(on there)") and "no model file 'small.safetensors'" in message[0]


def test_at_most_forty_mistakes_are_listed(tmp_path):
    message = mistakes(make_plan(tmp_path, jobs=[{"seed": {"from": 2000, "count": 100}}]))
    assert len(message) == 41 and message[-1] == "… and 60 more"


def test_control_characters_of_a_server_are_removed(tmp_path):
    info = copy.deepcopy(INFO)
    info["Draw"]["input"]["required"]["style"] = [["\x1b]0;title\x07"]]
    assert "\x1b" not in "\n".join(mistakes(make_plan(tmp_path), here=info))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.sampled_from(["INT", "IMAGE", "COMBO", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "input",
                    "required",
                    "optional",
                    "images",
                    "seed",
                    "text",
                    "options",
                    "min",
                    "max",
                    "output",
                    "output_node",
                    "image_upload",
                    "image",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON, JSON)
def test_no_object_info_crashes_the_check(draw, save):
    async def answer():
        return {"Draw": draw, "Save": save}

    info = asyncio.run(Server("x", SimpleNamespace(object_info=answer)).nodes())
    plan = Plan.make({"workflow": NODES, "jobs": [{"Draw.seed": [1, "x"]}, {"Draw.image": "gone.png"}]})
    try:
        prepare(plan, {"here": info})
    except PlanMistake as error:
        assert error.mistakes


def test_a_single_reference_and_a_single_prompt_are_found(tmp_path):
    for name in ("ada", "bob"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    jobs = [{"Draw.image": ["ada.png", "bob.png"]}, {"Draw.text": ["one", "two"]}]
    batch = prepare(make_plan(tmp_path, name=None, inputs={}, jobs=jobs), {"here": INFO})
    assert (batch.person_name, batch.prompt_name) == ("Draw.image", "Draw.text")
    assert [job.name for job in batch.jobs] == ["ada/1", "ada/2", "bob/3", "bob/4"]
    message = mistakes(make_plan(tmp_path, name=None, inputs={}, jobs=jobs, person="them"))
    assert message == ["person: jobs give 'them' no value"]


def test_keep_best_needs_one_prompt_and_one_person(tmp_path):
    """Else all prompts would be one group, of which only the best images stay."""
    second = {"class_type": "Save", "inputs": {"images": ["5", 0], "filename_prefix": ""}}
    keys = {
        "workflow": {**NODES, "5": {**NODES["1"], "_meta": {"title": "Other"}}, "6": second},
        "name": "{job}",
        "inputs": {"a": "1.text", "b": "5.text", "c": "1.image", "d": "5.image"},
        "jobs": [{"a": ["one", "two"]}, {"b": "no"}, {"c": "ada.png", "d": "ada.png"}],
    }
    Image.new("RGB", (8, 8)).save(tmp_path / "ada.png")
    assert mistakes(make_plan(tmp_path, **keys, keep_best=1)) == [
        "keep_best: c and d could each be the person: name one under `person`",
        "keep_best: a and b could each be the prompt: name one under `prompt`",
    ]
    assert prepare(make_plan(tmp_path, **keys, keep_best=1, prompt="a", person="d"), {"here": INFO}).prompt_name == "a"
    assert prepare(make_plan(tmp_path, **keys), {"here": INFO}).prompt_name is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x" * 300 + ".png", "no file 'xxx"),
        ("p/adda.png", "no file 'p/adda.png', but a folder "),
        ("q/adda.png", ""),  # perhaps a subfolder on the server
        ("p/adda.png [output]", ""),
        ("p/there.png", ""),
    ],
)
def test_a_file_that_is_not_there(tmp_path, value, message):
    (tmp_path / "p").mkdir()
    info = copy.deepcopy(INFO)
    info["Draw"]["input"]["required"]["image"][0].append("p/there.png")
    plan = make_plan(tmp_path, name="{job}", inputs={"person": "Draw.image"}, jobs=[{"person": value}])
    if message:
        (line,) = mistakes(plan, here=info)
        assert message in line
    else:
        assert prepare(plan, {"here": info}).jobs[0].edits == {("1", "image"): value}


def test_a_file_on_the_server_with_which_the_batch_began(tmp_path):
    (tmp_path / "p").mkdir()
    plan = make_plan(tmp_path, name="{job}", inputs={"person": "Draw.image"}, jobs=[{"person": "p/eve.png"}])
    assert check(plan, {"here": INFO}, [{"name": "1", "person": "p/eve.png"}]).rows == [{"person": "p/eve.png"}]


def test_only_types_that_a_node_makes_need_a_link(tmp_path):
    info = copy.deepcopy(INFO)
    for name, kind in (("camera", "WEBCAM"), ("picture", "IMAGE")):
        info["Draw"]["input"]["optional"][name] = [kind, {}]
    plan = make_plan(tmp_path, inputs={"seed": "1.seed", "c": "1.camera"}, jobs=[{"seed": [1], "c": "snap.png [temp]"}])
    assert prepare(plan, {"here": info}).jobs[0].edits["1", "camera"] == "snap.png [temp]"
    plan = make_plan(tmp_path, inputs={"seed": "1.seed", "p": "1.picture"}, jobs=[{"seed": [1], "p": "x"}])
    assert "takes a link (IMAGE)" in mistakes(plan, here=info)[0]


def test_values_of_a_table_are_converted(tmp_path):
    (tmp_path / "plan.csv").write_text("Draw it.seed,Draw it.text,1.style,note\n7,12,striped,for me\n")
    plan = Plan.load(tmp_path / "plan.csv", workflow=NODES, servers=["x"], inputs={"note": None})
    (job,) = prepare(plan, {"here": INFO}).jobs
    assert job.edits == {("1", "seed"): 7, ("1", "text"): "12", ("1", "style"): "striped"}


def test_one_name_for_several_inputs_and_optional_inputs(tmp_path):
    second = {"class_type": "Save", "inputs": {"images": ["5", 0], "filename_prefix": ""}}
    nodes = {**NODES, "5": NODES["1"], "6": second}
    plan = make_plan(
        tmp_path,
        workflow=nodes,
        name="{job}",
        inputs={"seed": ["1.seed", "5.seed"], "s": "1.strength"},
        jobs=[{"seed": [4], "s": 0.5}],
    )
    (job,) = prepare(plan, {"here": INFO}).jobs
    assert job.edits == {("1", "seed"): 4, ("5", "seed"): 4, ("1", "strength"): 0.5}
    changed = prompt_of(Workflow.parse(nodes), job.edits)
    assert changed.nodes["1"]["inputs"]["strength"] == 0.5 and "strength" not in nodes["1"]["inputs"]


def test_two_names_for_one_input(tmp_path):
    plan = make_plan(tmp_path, name="{job}", inputs={"a": "1.seed", "b": "Draw it.seed"}, jobs=[{"a": 1, "b": 2}])
    assert "'b' and 'a' both set 1.seed" in mistakes(plan)[0]


def test_titles_with_dots(tmp_path):
    nodes = {**NODES, "1": {**NODES["1"], "_meta": {"title": "v1.5 draw.er"}}}
    plan = make_plan(tmp_path, workflow=nodes, inputs={"seed": "v1.5 draw.er.seed"})
    assert prepare(plan, {"here": INFO}).jobs[0].edits == {("1", "seed"): 0}


def test_a_list_is_wrapped():
    changed = prompt_of(Workflow.parse(NODES), {("1", "text"): ["2", 0]})
    assert changed.nodes["1"]["inputs"]["text"] == {"__value__": ["2", 0]}


# ---- a real server's declarations ----


@pytest.fixture(scope="module")
def offered(server) -> dict:
    async def get_object_info():
        async with Client(server.address) as client:
            return await client.object_info()

    return asyncio.run(get_object_info())


def test_the_shipped_workflows_lack_nothing_but_files(offered):
    info = copy.deepcopy(offered)
    info["LoadImage"]["input"]["required"]["image"][0].append("faceworld.webp")
    for path in WORKFLOW.parent.glob("*.json"):
        lines = list(mistakes_of(Workflow.load(path), set(), [], info))
        assert all(
            "there is no file" in line or "there is no model file" in line or "input 'pack'" in line for line in lines
        ), lines
        assert path != WORKFLOW or not lines


def test_mistakes_in_the_portrait(offered, tmp_path):
    plan = Plan.make(
        {
            "workflow": str(WORKFLOW),
            "servers": ["x"],
            "jobs": [
                {"KSampler.steps": [0, 5]},
                {"KSampler.sampler_name": "eular"},
                {"KSampler.cfg": 500},
                {"Reference.image": "missing.webp"},
                {"Load Face Analyzer.pack": "buffalo_xl"},
                {"Apply FaceCDM.face_strength": "strong"},
            ],
        },
        WORKFLOW.parents[2] / "tests",
    )
    message = "\n".join(mistakes(plan, here=offered))
    for line in (
        "0 is less than 1",
        "'eular' is not one of the choices",
        "euler",
        "500 is more than 100",
        "no file 'missing.webp'",
        "'buffalo_xl' is not one of the choices",
        "'strong' is not a number",
    ):
        assert line in message, line
