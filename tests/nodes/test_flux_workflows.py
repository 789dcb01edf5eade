"""The workflows on FLUX.1 from their files to a saved picture, on small models of random weights.

Every node is the one that ComfyUI runs. Stand-ins: the text encoders, and the sizes that core and FaceCDM expect.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import flux
import flux_comfy
import flux_files
import pytest
import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = ("diffusion_models", "vae", "text_encoders", "pulid", "ipadapter", "controlnet", "clip_vision", "insightface")
SIDE = 64
SETTINGS = {"width": SIDE, "height": SIDE, "steps": 2}
AFTER = ("FaceCDMApply", "FaceCDMApplyPeople", "FaceCDMApplyControlNet", "KSampler", "VAEDecode", "SaveImage")
# The widgets that set how strongly the person acts.
STRENGTHS = {
    "flux_pulid": ("face_strength",),
    "flux_withanyone": ("face_strength", "image_strength"),
    "flux_infiniteyou": ("strength",),
    "flux_ipadapter": ("image_strength",),
}


@pytest.fixture(scope="module")
def models(in_comfy, face_models, tmp_path_factory):
    """A models folder with all files, as ComfyUI's; and pictures in its input folder."""
    models = tmp_path_factory.mktemp("models")
    flux_files.write_base(models)
    flux_files.write_adapters(models)
    flux_files.write_towers(models)
    flux_files.write_face_packs(models, face_models / "models/insightface/models/buffalo_s")
    for picture in (REPOSITORY / "facecdm/demo/assets").glob("*.webp"):
        shutil.copy(picture, in_comfy.base / "input")
    return models


@pytest.fixture(scope="module", autouse=True)
def small_sizes(in_comfy, models):
    import comfy.model_detection
    import comfy.sd
    import folder_paths

    with pytest.MonkeyPatch.context() as patch:
        for key in KEYS:
            known = folder_paths.folder_names_and_paths[key][1]
            patch.setitem(folder_paths.folder_names_and_paths, key, ([str(models / key)], known))
        folder_paths.filename_list_cache.clear()
        detect = comfy.model_detection.detect_unet_config
        own = {key: flux.SMALL[key] for key in ("num_heads", "axes_dim")}  # core takes Flux.1's
        patch.setattr(comfy.model_detection, "detect_unet_config", lambda *args, **more: detect(*args, **more) | own)
        clip = flux_comfy.make_clip("Flux")
        patch.setattr(comfy.sd, "load_clip", lambda **given: clip)
        _small_parts(in_comfy, models, patch)
        yield
    folder_paths.filename_list_cache.clear()


def _small_parts(in_comfy, models: Path, patch: pytest.MonkeyPatch) -> None:
    """FaceCDM's base model, towers and recogniser at the files' sizes."""
    bases, encoders = (in_comfy.module(f"facecdm.{name}") for name in ("bases", "formats.encoders"))
    layer_map = in_comfy.module("facecdm.hosts.comfy.base_model").layer_map(flux.make_flux())
    patch.setitem(bases.BASES, "small Flux", bases.Base("small Flux", layer_map))
    siglip = in_comfy.module("facecdm.hosts.comfy.siglip")
    for name in ("SIGLIP", "SIGLIP_SO400M"):
        small = replace(getattr(encoders, name), states=48, pooled=48, positions=4)
        for module in (encoders, siglip, in_comfy.module("nodes.towers")):
            patch.setattr(module, name, small, raising=False)
    (models / "siglip.json").write_text(json.dumps(flux_files.SIGLIP_CONFIG), encoding="utf-8")
    patch.setattr(siglip, "_CONFIG", models / "siglip.json")
    patch.setattr(in_comfy.module("facecdm.faces.ir_se50"), "IrSe50", flux_files.SmallRecogniser)


def run(in_comfy, workflow: dict, made: dict[str, tuple]) -> dict[str, tuple]:
    """The outputs of every node of an API JSON, by its id; `made` are those that are known."""
    from comfy_extras import nodes_flux, nodes_sd3

    import nodes

    extra = {"FluxGuidance": nodes_flux.FluxGuidance, "EmptySD3LatentImage": nodes_sd3.EmptySD3LatentImage}
    classes, made = nodes.NODE_CLASS_MAPPINGS | extra | in_comfy.nodes, dict(made)

    def outputs(key: str) -> tuple:
        if key not in made:
            kind, given = workflow[key]["class_type"], workflow[key]["inputs"]
            inputs = {name: outputs(v[0])[v[1]] if isinstance(v, list) else v for name, v in given.items()}
            made[key] = call(classes[kind], inputs)
        return made[key]

    for key in workflow:
        outputs(key)
    return made


def call(node: type, inputs: dict) -> tuple:
    with torch.inference_mode():
        if hasattr(node, "PREPARE_CLASS_CLONE"):
            return tuple(node.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**inputs).result or ())
        result = getattr(node(), node.FUNCTION)(**inputs)
    return tuple(result.get("result", ()) if isinstance(result, dict) else result)


def with_inputs(workflow: dict, settings: dict) -> dict:
    """The workflow with other values of the inputs that have these names."""
    return {
        key: node | {"inputs": {name: settings.get(name, value) for name, value in node["inputs"].items()}}
        for key, node in workflow.items()
    }


@pytest.mark.parametrize("name", STRENGTHS)
def test_it_makes_a_picture_of_the_person(in_comfy, name):
    if name == "flux_ipadapter":
        flux.skip_without_query_patches()
    text = (REPOSITORY / f"workflows/api/{name}.json").read_text(encoding="utf-8")
    workflow = with_inputs(json.loads(text), SETTINGS)
    saved = set((in_comfy.base / "output").rglob("*.png"))
    made, keys = run(in_comfy, workflow, {}), {node["class_type"]: key for key, node in workflow.items()}
    (path,) = set((in_comfy.base / "output").rglob("*.png")) - saved
    picture = made[keys["VAEDecode"]][0]
    assert Image.open(path).size == (SIDE, SIDE) and picture.shape == (1, SIDE, SIDE, 3) and picture.isfinite().all()
    before = {key: made[key] for key, node in workflow.items() if node["class_type"] not in AFTER}
    without = run(in_comfy, with_inputs(workflow, dict.fromkeys(STRENGTHS[name], 0.0)), before)
    shown, plain = (found[keys["KSampler"]][0]["samples"] for found in (made, without))
    assert (shown - plain).abs().max() > 0.01 * plain.abs().max()
