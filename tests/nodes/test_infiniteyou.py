"""InfiniteYou through the nodes: its adapter's tokens in place of the text in InfuseNet, a ControlNet of Flux.1.

Against diffusers' FluxControlNetModel and FluxTransformer2DModel, and a second writing of the resampler.
"""

from pathlib import Path

import flux
import pytest
import torch
from flux_twins import diffusers_prediction, inputs, make_control_twins, make_twins, packed
from published_flux import infiniteyou, state_of
from resampler_reference import resampled
from tensors import close
from torch.nn import functional as F
from twins import predict

SIGMA, CONTEXT, STRENGTH = 0.7, 40, 0.6
RECOGNISER = "arcface_ir_se50/recognition_arcface_ir_se50.pth"
SIZE = (8, 12)  # of the latents
LATENTS = torch.randn(1, 16, *SIZE, generator=torch.Generator().manual_seed(8))  # of the control image


class Vae:
    """Stands in for Flux.1's VAE: whatever the picture, the same latents."""

    def encode(self, picture):
        assert picture.shape == (1, 8 * SIZE[0], 8 * SIZE[1], 3)
        return LATENTS

    def spacial_compression_encode(self):
        return 8


@pytest.fixture(scope="module")
def twins(in_comfy):
    return make_twins(CONTEXT)


@pytest.fixture(scope="module")
def control(in_comfy):
    return make_control_twins(CONTEXT)


@pytest.fixture(scope="module")
def state():
    return state_of(infiniteyou(CONTEXT, 128))


@pytest.fixture(scope="module")
def adapter(in_comfy, twins, state):
    """Read as the file nests its tensors."""
    import folder_paths

    bases = in_comfy.module("facecdm.bases")
    layer_map = in_comfy.module("facecdm.hosts.comfy.base_model").layer_map(twins[0])
    nested = {"image_proj": {key.removeprefix("image_proj."): value for key, value in state.items()}}
    folder = Path(folder_paths.get_folder_paths("ipadapter")[0])
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(nested, folder / "image_proj_model.bin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bases.BASES, "small Flux", bases.Base("small Flux", layer_map))
        adapter, report, tower = in_comfy.run(
            "FaceCDMLoadAdapter", name="ipadapter/image_proj_model.bin", family="auto"
        )
    assert "InfiniteYou for small Flux, recognised by its content" in report and "8 tokens" in report and tower is None
    return adapter


@pytest.fixture(scope="module")
def faces(make_faces):
    return make_faces(1, recogniser=RECOGNISER)


@pytest.fixture
def apply_control(in_comfy, adapter, control, faces):
    def apply_control(positive, negative, **changes):
        given = dict(
            control_net=control[0],
            image=torch.zeros(1, 8 * SIZE[0], 8 * SIZE[1], 3),
            adapter=adapter,
            faces=faces,
            strength=STRENGTH,
            start_at=0.0,
            end_at=1.0,
            references="mean",
            noise=0.0,
            vae=Vae(),
        )
        return in_comfy.run("FaceCDMApplyControlNet", positive=positive, negative=negative, **given | changes)

    return apply_control


@torch.no_grad()
def theirs(twins, control, x, conditioning, tokens, weight=1.0):
    """The velocity of diffusers' transformer with the residuals of its ControlNet, each times `weight`."""
    picture = packed((LATENTS - 0.1159) * 0.3611)  # Flux.1's shift and scale
    double, single = control[1](
        **inputs(x, SIGMA, conditioning, tokens), controlnet_cond=picture, conditioning_scale=STRENGTH
    )
    residuals = dict(
        controlnet_block_samples=[weight * value for value in double],
        controlnet_single_block_samples=[weight * value for value in single],
    )
    return diffusers_prediction(twins[1], x, SIGMA, conditioning, **residuals)


def test_the_net_reads_the_face_in_place_of_both_prompts(twins, control, state, faces, apply_control):
    x, positive, negative = flux.latents(SIZE), flux.prompt(twins[0], 1), flux.prompt(twins[0], 2)
    own = {key.removeprefix("image_proj."): value for key, value in state.items()}
    tokens = resampled(own, F.normalize(faces.raw, dim=-1))
    one, two = (theirs(twins, control, x, prompt, tokens) for prompt in (positive, negative))
    ours = predict(twins[0], x, SIGMA, *apply_control(positive, negative), cfg=3.0)
    close(ours, two + 3 * (one - two), 1e-4)
    plain = predict(twins[0], x, SIGMA, positive)
    assert (one - plain).abs().max() > 0.01 * plain.abs().max(), "it has an effect"
    with_text = theirs(twins, control, x, positive, positive[0][0])
    assert (one - with_text).abs().max() > 0.01 * plain.abs().max(), "the face has one"


def test_a_mask_keeps_it_to_a_region(twins, control, state, faces, apply_control):
    """A mask of whole tokens: the net's residuals are its own there, and zero elsewhere."""
    x, prompt, mask = flux.latents(SIZE), flux.prompt(twins[0]), torch.zeros(8 * SIZE[0], 8 * SIZE[1])
    mask[:32, 48:] = 1
    own = {key.removeprefix("image_proj."): value for key, value in state.items()}
    weight = torch.zeros(4, 6)
    weight[:2, 3:] = 1
    wanted = theirs(twins, control, x, prompt, resampled(own, faces.normed), weight.flatten()[None, :, None])
    close(predict(twins[0], x, SIGMA, apply_control(prompt, prompt, mask=mask)[0]), wanted, 1e-4)


def test_what_does_not_fit_is_refused_with_the_reason(in_comfy, twins, adapter, faces, make_faces, apply_control):
    errors, prompt = in_comfy.module("facecdm.errors"), flux.prompt(twins[0])
    with pytest.raises(errors.FaceCDMError, match="reads its picture as latents: connect the base model's VAE to vae"):
        apply_control(prompt, prompt, vae=None)
    with pytest.raises(errors.Mismatch, match="noise is 0.3.*InfiniteYou has nothing for the negative prompt"):
        apply_control(prompt, prompt, noise=0.3)
    with pytest.raises(errors.Mismatch, match="choose the face pack arcface_ir_se50 in Load Face Analyzer"):
        apply_control(prompt, prompt, faces=make_faces(1, recogniser="antelopev2/glintr100.onnx"))
    with pytest.raises(errors.Mismatch, match="InfiniteYou acts through its ControlNet alone"):
        in_comfy.module("facecdm.hosts.comfy.sampling.apply").check_base(twins[0], adapter)
