"""What the adapter's nodes are given: small base models, a small image encoder, faces; random, and each made once."""

import json
from dataclasses import replace

import pytest
import torch
from twins import SMALL_SD15, SMALL_SDXL, conditioning, make_twins, predict, stir


@pytest.fixture(scope="session")
def sd15(in_comfy):
    """A MODEL."""
    return make_twins(SMALL_SD15).model


@pytest.fixture(scope="session")
def sdxl(in_comfy):
    return make_twins(SMALL_SDXL).model


@pytest.fixture(scope="session")
def make_vision(in_comfy, tmp_path_factory):
    """width → CLIP_VISION with five states of so many features."""
    import comfy.clip_vision

    def make(width: int):
        file = tmp_path_factory.mktemp("vision") / "config.json"
        file.write_text(
            json.dumps(
                {
                    "model_type": "clip_vision_model",
                    "hidden_size": width,
                    "intermediate_size": width,
                    "projection_dim": 8,
                    "num_attention_heads": 2,
                    "num_hidden_layers": 2,
                    "num_channels": 3,
                    "image_size": 32,
                    "patch_size": 16,
                    "hidden_act": "quick_gelu",
                    "layer_norm_eps": 1e-5,
                    "image_mean": [0.5] * 3,
                    "image_std": [0.5] * 3,
                }
            )
        )
        vision = comfy.clip_vision.ClipVisionModel(str(file))
        generator = torch.Generator().manual_seed(0)
        for value in vision.model.parameters():  # ComfyUI leaves them as memory was
            value.data.copy_(torch.randn(value.shape, generator=generator) * 0.1)
        return vision

    return make


@pytest.fixture(scope="session")
def vision(make_vision):
    return make_vision(32)


@pytest.fixture(scope="session")
def make_faces(in_comfy):
    """FACES of the pack's own classes."""
    value = in_comfy.module("facecdm.faces.value")

    def make(count: int = 1, width: int = 512, recogniser: str = "buffalo_s/w600k_mbf.onnx"):
        generator = torch.Generator().manual_seed(count)
        return value.Faces(
            tuple(
                value.Face(
                    torch.randn(width, generator=generator) * 5,
                    torch.rand(5, 2),
                    torch.tensor([0.0, 0, 9, 9]),
                    0.9,
                    (10, 10),
                    0,
                    torch.zeros(8, 8, 3),
                )
                for _ in range(count)
            ),
            recogniser,
        )

    return make


@pytest.fixture(scope="session")
def found_in(in_comfy):
    """(FACES, picture [1, H, W, 3]) → the same faces with the crops that Detect & Embed Faces would have cut there."""
    align = in_comfy.module("facecdm.faces.align")

    def give(faces, picture):
        pixels = (picture[0].numpy() * 255).round().astype("uint8")
        crops = [
            torch.from_numpy(align.aligned_crop(pixels, face.keypoints.numpy(), 64)).float() / 255 for face in faces
        ]
        return type(faces)(
            tuple(replace(face, crop=crop, image_size=picture.shape[1:3]) for face, crop in zip(faces, crops)),
            faces.recogniser,
        )

    return give


@pytest.fixture(scope="session")
def errors(in_comfy):
    """The pack's own error types."""
    return in_comfy.module("facecdm.errors")


@pytest.fixture(scope="session")
def adapter(sd15, vision, make_adapter):
    """A small ADAPTER with both streams, as if trained: every gate is open. Not to be changed."""
    return stir(make_adapter(sd15, clip_vision=vision))


@pytest.fixture(scope="session")
def make_adapter(in_comfy):
    """A small ADAPTER by New FaceCDM Adapter; more inputs of the node by name."""

    def make(model, **inputs):
        sizes = {"face_tokens": 3, "image_tokens": 5, "face_rank": 16, "interplay": True, "seed": 1}
        return in_comfy.run("FaceCDMNewAdapter", model=model, **sizes | inputs)[0]

    return make


@pytest.fixture
def folder(in_comfy, tmp_path, monkeypatch):
    """An empty models/facecdm; the folders of published adapters stand empty beside it, under their own names."""
    import folder_paths

    for key in ("facecdm", "ipadapter", "instantid", "pulid"):
        folder = tmp_path if key == "facecdm" else tmp_path.parent / f"{tmp_path.name}-{key}" / key
        folder.mkdir(parents=True, exist_ok=True)
        kinds = {".safetensors"} if key == "facecdm" else {".safetensors", ".bin"}
        monkeypatch.setitem(folder_paths.folder_names_and_paths, key, ([str(folder)], kinds))
    return tmp_path


@pytest.fixture(scope="session")
def noise():
    """What a MODEL says of the same latents and the same words."""

    def noise(model, sigma: float = 2.0, size=(8, 8), batch: int = 1, context: int = 96, **more) -> torch.Tensor:
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(batch, 4, *size, generator=generator) * sigma
        prompts = [
            conditioning(torch.randn(1, 77, context, generator=generator), torch.zeros(1, 1280)) for _ in range(2)
        ]
        return predict(model, x, sigma, *prompts[: 2 if more.get("cfg", 1.0) != 1 else 1], **more)

    return noise


@pytest.fixture(scope="session")
def picture():
    def picture(seed: int = 0, count: int = 1) -> torch.Tensor:
        return torch.rand(count, 40, 32, 3, generator=torch.Generator().manual_seed(seed))

    return picture
