"""Published adapters from their folders to a MODEL, on a small U-Net."""

import pytest
from published import flat, published_state
from published_nodes import ARCFACE, FACES, IMAGES, SIZES, make_options
from safetensors.torch import save_file


@pytest.fixture(scope="module", autouse=True)
def small_base(in_comfy, sd15):
    """Give the small U-Net a name among the bases."""
    bases = in_comfy.module("facecdm.bases")
    layer_map = in_comfy.module("facecdm.hosts.comfy.unet").layer_map(sd15)
    bases.BASES["small SD1.5"] = bases.Base("small SD1.5", layer_map)
    yield
    del bases.BASES["small SD1.5"]


@pytest.fixture(scope="module")
def states(in_comfy, sd15):
    layer_map = in_comfy.module("facecdm.hosts.comfy.unet").layer_map(sd15)
    return {family: published_state(family, layer_map, SIZES, seed) for seed, family in enumerate(FACES + IMAGES)}


@pytest.fixture
def load(in_comfy, folder, states):
    """family → its ADAPTER, from a file with its published name in models/ipadapter."""
    import folder_paths

    def load(family: str, choice: str = "auto"):
        folder = folder_paths.get_folder_paths("ipadapter")[0]
        save_file(flat(states[family]), f"{folder}/ip-adapter-{family}_sd15.safetensors")
        return in_comfy.run(
            "FaceCDMLoadAdapter", name=f"ipadapter/ip-adapter-{family}_sd15.safetensors", family=choice
        )[0]

    return load


@pytest.fixture
def faces(make_faces):
    return make_faces(1, recogniser=ARCFACE)


@pytest.fixture
def apply_output(in_comfy, sd15, faces, vision, picture):
    """Apply FaceCDM's output with everything connected; `options` as a dict of FaceCDM Apply Options' inputs."""

    def apply(adapter, **changes):
        inputs = {
            "model": sd15,
            "adapter": adapter,
            "faces": faces,
            "face_strength": 1.0,
            "image_strength": 1.0,
            "keep_prompt": 0.0,
            "start_at": 0.0,
            "end_at": 1.0,
            "references": "mean",
            "curve": "flat",
            "clip_vision": vision,
            "image": picture(),
        } | changes
        if isinstance(inputs.get("options"), dict):
            inputs["options"] = make_options(in_comfy, **inputs["options"])
        return in_comfy.node_output("FaceCDMApply", **inputs)

    return apply


@pytest.fixture
def apply(apply_output):
    return lambda adapter, **changes: apply_output(adapter, **changes).result[0]
