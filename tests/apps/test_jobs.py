"""One image of a workflow."""

import asyncio
from dataclasses import replace

from aiohttp import web
from PIL import Image
from sender import Sender, finished
from standin import NODES, StandIn, picture_of

from facecdm.apps.jobs import Job, make_all
from facecdm.apps.references import FACEWORLD_REFERENCE, read_references
from facecdm.comfy_api.workflow import Workflow


def test_an_image_that_is_no_picture_is_a_problem(tmp_path):
    """What a server calls a.png may be EPS, for which Pillow would start Ghostscript."""
    made = asyncio.run(finished(Sender("eps"), tmp_path))
    assert made.picture is None
    assert made.problem.startswith(
        "http://here sent a.png, which cannot be read as a picture (it is in none of the formats PNG,"
    )
    assert not list(tmp_path.iterdir())


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert asyncio.run(finished(Sender("png", exif=exif), tmp_path)).picture.size == (4, 8)


def test_a_transparent_image_is_shown_on_white(tmp_path):
    shown = asyncio.run(finished(Sender("png", Image.new("RGBA", (8, 4))), tmp_path)).picture
    assert shown.mode == "RGB" and shown.getpixel((0, 0)) == (255, 255, 255)


def test_what_the_nodes_warn_of_is_shown_once(tmp_path, capsys, monkeypatch):
    shown = {"1": {"facecdm_warnings": ["this face is unlike"]}, "2": {"facecdm_warnings": ["this face is unlike", 3]}}
    sender = Sender("png")
    wait = sender.wait

    async def warned(prompt_id, on_progress):
        return replace(await wait(prompt_id, on_progress), ui=shown)

    monkeypatch.setattr(sender, "wait", warned)
    asyncio.run(finished(sender, tmp_path))
    assert capsys.readouterr().out == "  warning: this face is unlike\n"


def make_on(server: StandIn, jobs_of, references, output):
    async def main():
        await server.up()
        try:
            return await make_all(server.address, jobs_of, references, None, output)
        finally:
            await server.down()

    return asyncio.run(asyncio.wait_for(main(), 120))


def seeds(reference, count: int) -> list[Job]:
    workflow = Workflow.parse(NODES)
    return [Job(reference, n, f"seed {n}", workflow.set("Draw it", "seed", n)) for n in range(count)]


def test_every_job_without_an_image_has_its_reason(tmp_path):
    """The other images, and the sheet with all of them, are made."""
    server, references = StandIn(), read_references([FACEWORLD_REFERENCE])
    real = server._prompt

    def behave(nodes):
        seed = nodes["1"]["inputs"]["seed"]
        entry = {"status": {"status_str": "error", "messages": [["execution_interrupted", {}]]}, "outputs": {}}
        if seed == 4:  # forgotten as soon as it is in the history
            asyncio.get_running_loop().call_soon(
                lambda: [server.history.pop(key) for key in list(server.history) if server.history[key] is entry]
            )
        if seed == 5:
            raise ValueError("no memory")
        return {1: entry, 2: {"status": 3}, 3: [("x.png", b"no picture")], 4: entry}.get(seed)

    async def prompt(request):
        if (await request.json())["prompt"]["1"]["inputs"]["seed"] != 6:
            return await real(request)
        errors = {"1": {"class_type": "Draw", "errors": [{"message": "Bad", "details": "seed"}]}}
        return web.json_response({"error": {"message": "no"}, "node_errors": errors}, status=400)

    server.behave, server._prompt = behave, prompt
    (row,) = make_on(server, lambda names: seeds(references[0], 8), references, tmp_path)
    problems = [made.problem for made in row.results]
    for problem, wanted in zip(
        problems,
        [
            "",
            "was interrupted",
            "cannot be read",
            "read as a picture",
            "does not know job",
            "no memory",
            "(Draw): Bad",
            "",
        ],
        strict=True,
    ):
        assert wanted in problem and bool(wanted) == bool(problem), problem
    assert {path.name for path in tmp_path.iterdir()} == {"faceworld-0.png", "faceworld-7.png"}


def test_no_image_replaces_another(tmp_path):
    """Names that differ only in case or in their end, and names with a number."""
    names = ["ada.jpg", "ADA.jpg", "ada-2.jpg", "x" * 114 + "a.jpg", "x" * 114 + "b.jpg"]
    server, folder = StandIn(), tmp_path / "photos"
    server.behave = lambda nodes: [(f"{len(server.files)}.png", picture_of(nodes))]
    for number, name in enumerate(names):
        (folder / str(number)).mkdir(parents=True)
        Image.open(FACEWORLD_REFERENCE).save(folder / str(number) / name)
    references = read_references([folder / str(number) / name for number, name in enumerate(names)])
    rows = make_on(
        server, lambda _: [job for item in references for job in seeds(item, 2)], references, tmp_path / "out"
    )
    assert [len(row.results) for row in rows] == [2] * len(names)
    made = {path.name.casefold() for path in (tmp_path / "out").iterdir()}
    assert len(made) == 2 * len(names) and {"ada-0.png", "ada-2-0.png", "ada-2-2-0.png"} <= made
