"""Values that an API client can write into any input: a typed answer that names the input, in seconds.
FACECDM_CORPUS=all runs every value, else one for each input."""

import asyncio
import json
import os
import random
import shutil
import time
import uuid

import aiohttp
import pytest
import torch
from safetensors.torch import load_file, save_file
from written_values import REFUSED, Case, Graphs, as_json

from facecdm.apps.references import FACEWORLD_REFERENCE
from facecdm.demo.paths import POSE_CONTROLNET
from facecdm.demo.weights import default_path
from facecdm.errors import LONGEST

ALL = os.environ.get("FACECDM_CORPUS") == "all"
SECONDS = 10
OURS = "custom_validation_failed"  # the server's type for a message of validate_inputs
# The server's types for a value that it refuses itself; values of lists in newer versions only.
SERVERS = {
    "invalid_input_type",
    "value_smaller_than_min",
    "value_bigger_than_max",
    "value_not_in_list",
    "bad_linked_input",
}


@pytest.fixture(scope="module")
def graphs(server):
    """The server has the files that `written_values.GIVEN` names."""
    if not default_path().is_file():
        pytest.skip(f"no demo weights at {default_path()}")
    shutil.copy(FACEWORLD_REFERENCE, server.base / "input" / "written.webp")
    offered = asyncio.run(object_info(server))
    graphs = Graphs({kind: info for kind, info in offered.items() if kind.startswith("FaceCDM")}, "written.webp")
    for kind in ("FaceCDMSaveAdapter", "FaceCDMSaveFaces"):
        server.run(graphs.graph(kind, name="written")[0])
    weights = load_file(POSE_CONTROLNET)
    name = next(
        key.removesuffix(".down") for key, value in weights.items() if key.endswith(".down") and value.ndim == 2
    )
    down, up = torch.zeros(2, weights[f"{name}.down"].shape[1]), torch.zeros(len(weights[f"{name}.up"]), 2)
    (server.base / "models" / "loras").mkdir(exist_ok=True)
    lora = {f"control_model.{name}.lora_down.weight": down, f"control_model.{name}.lora_up.weight": up}
    save_file(lora, server.base / "models" / "loras" / "written.safetensors")
    return graphs


async def object_info(server) -> dict:
    async with aiohttp.ClientSession(f"http://{server.address}") as session, session.get("/object_info") as answer:
        return await answer.json()


class Sender:
    """A client of the API with its messages: `await send(…)` gives what a graph comes to."""

    def __init__(self, session: aiohttp.ClientSession, socket: aiohttp.ClientWebSocketResponse, client: str):
        self.session, self.socket, self.client = session, socket, client

    async def send(self, nodes: dict, asked: str) -> tuple[dict, dict]:
        """(errors of the check before the queue by node, the execution error)."""
        body = as_json({"prompt": nodes, "client_id": self.client, "partial_execution_targets": [asked]})
        async with self.session.post("/prompt", data=body, headers={"Content-Type": "application/json"}) as answer:
            content = json.loads(await answer.text())
        if answer.status != 200 or content["node_errors"]:
            assert answer.status == 400, content
            return content["node_errors"], {}
        while True:
            message = await self.socket.receive(timeout=300)
            content = json.loads(message.data) if message.type == aiohttp.WSMsgType.TEXT else {"type": "preview"}
            if content["type"] in ("execution_success", "execution_error"):
                return {}, content["data"] if content["type"] == "execution_error" else {}


def judge(case: Case, refused: dict, failed: dict) -> str:
    """ "" for an answer as it must be, else what is wrong with it."""
    if failed:
        text, kind = failed["exception_message"].removesuffix("\n"), failed["exception_type"]
        if not kind.startswith("facecdm.") or failed["node_id"] != "tested":
            return f"untyped {kind} at {failed['node_id']}: {text[:150]}"
        named = case.expected != REFUSED or case.input in text
        return "" if named and len(text) <= LONGEST else f"{len(text)} characters: {text[:150]}"
    for error in [error for found in refused.values() for error in found["errors"]]:
        ours = error["type"] == OURS and len(error["details"]) <= len(case.input) + 3 + LONGEST
        named = error["extra_info"].get("input_name") == case.input
        if not named or not (ours or error["type"] in SERVERS):
            return f"{error['type']}: {error['details'][:150]}"
    return "silent" if case.expected == REFUSED and not refused else ""


async def outcomes(server, graphs: Graphs, cases: list[Case]) -> dict[str, str]:
    """Case → what is wrong."""
    wrong, client = {}, uuid.uuid4().hex
    async with (
        aiohttp.ClientSession(f"http://{server.address}") as session,
        session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
    ):
        sender = Sender(session, socket, client)
        for case in cases:
            started = time.monotonic()
            refused, failed = await sender.send(*graphs.graph(case.node, **{case.input: case.value}))
            seconds = time.monotonic() - started
            text = judge(case, refused, failed)
            if text or (refused or failed) and seconds > SECONDS:  # an accepted value may mean much work
                wrong[str(case)] = text or f"{seconds:.0f} s"
        assert await sender.send(*graphs.graph("FaceCDMPersonRegions")) == ({}, {})
    return wrong


def chosen(cases: list[Case]) -> list[Case]:
    """One value for each input, which does not set off a training or an evaluation."""
    by_input: dict[str, list[Case]] = {}
    for case in cases:
        if case.expected == REFUSED or case.kind == "STRING":
            by_input.setdefault(case.input, []).append(case)
    return [random.Random(f"{group[0].node} {name}").choice(group) for name, group in by_input.items()]


@pytest.mark.timeout(1800)
def test_every_input_of_every_node(server, graphs):
    assert not asyncio.run(outcomes(server, graphs, []))
    cases = [case for kind in graphs.offered for case in (graphs.cases(kind) if ALL else chosen(graphs.cases(kind)))]
    wrong = asyncio.run(outcomes(server, graphs, cases))
    assert not wrong, f"{len(wrong)} of {len(cases)}: {wrong}"
    print(f"{len(cases)} values")
    assert len(cases) > 200
