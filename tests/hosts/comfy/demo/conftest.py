"""A demo model of random weights, which is enough to compare conversions."""

from dataclasses import replace

import pytest


@pytest.fixture(scope="session")
def hosts(in_comfy):
    """facecdm.hosts.comfy.demo.model as the pack's own copy."""
    return in_comfy.module("facecdm.hosts.comfy.demo.model")


@pytest.fixture(scope="session")
def originals(in_comfy):
    """(U-Net of diffusers, TinyClip of transformers, autoencoder), random, float32, of the real sizes."""
    import torch

    sizes = in_comfy.module("facecdm.demo.sizes").DemoSizes()
    torch.manual_seed(7)
    unet = in_comfy.module("facecdm.demo.unet").build_unet(sizes.unet_config()).eval()
    clip = in_comfy.module("facecdm.demo.clip").TinyClip(sizes.clip, len(token_ids()) + 1).eval()
    autoencoder = in_comfy.module("facecdm.demo.autoencoder").PatchAutoencoder(
        sizes.latent_channels, sizes.refiner_width
    )
    torch.nn.init.normal_(autoencoder.refiner[-1].weight, std=0.05)
    return unet, clip, autoencoder.eval()


def token_ids() -> list[int]:
    """a young man , short brown hair, and the two special ones, as the CLIP tokenizer numbers them."""
    return [267, 320, 786, 1281, 1611, 2866, 2225, 49406, 49407]


@pytest.fixture(scope="session")
def random_weights(in_comfy, originals):
    """A DemoWeights, float32."""
    files = in_comfy.module("facecdm.demo.weights")
    clip_module = in_comfy.module("facecdm.demo.clip")
    unet, clip, autoencoder = originals
    text, vision = (
        {k.removeprefix(prefix): v for k, v in clip.state_dict().items() if k.startswith(prefix)}
        for prefix in ("text_tower.", "vision_tower.")
    )
    return files.DemoWeights(
        in_comfy.module("facecdm.demo.sizes").DemoSizes(),
        clip_module.Vocabulary(token_ids()),
        {"unet": 0},
        unet=unet.state_dict(),
        vae=autoencoder.state_dict(),
        text=text,
        vision=vision,
    )


@pytest.fixture
def weights_file(in_comfy, random_weights, tmp_path):
    """The same in a file, fp16."""
    path = tmp_path / "demo.safetensors"
    in_comfy.module("facecdm.demo.weights").write(replace(random_weights), path)
    return path
