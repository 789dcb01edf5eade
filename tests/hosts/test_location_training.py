"""A location head is trained by a stage in both hosts, for SD1.5 and SDXL, and acts in a sampling."""

import pytest
import torch
from lab import STAGE, Shrink, TinySource
from twins import conditioning, new_adapter, predict, stir

from facecdm.adapter.native import load_adapter, save_adapter
from facecdm.adapter.person import Person
from facecdm.faces.align import TEMPLATE
from facecdm.faces.location import SIZE
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import layer_map, text_keys_values
from facecdm.hosts.diffusers.denoiser import DiffusersDenoiser
from facecdm.training.checks import Inputs, Job
from facecdm.training.orchestrator import Training
from facecdm.training.rows import Prompt

SIGMA = 1.0


class TwinSource(TinySource):
    """The pictures and prompts of one of the small bases; SDXL's prompts are pooled and have sizes."""

    def __init__(self, context: int, pooled: bool):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.faces = torch.randn(len(self), 512, generator=generator)
        self.texts = torch.randn(len(self), 77, context, generator=generator)
        self.latents = [torch.randn(4, 16, 16, generator=generator) for _ in self.latents]
        self.buckets = [list(range(len(self)))]
        self.pooled = torch.randn(len(self), 1280, generator=generator) if pooled else None
        self.sizes = torch.tensor([[128.0, 128, 0, 0, 128, 128]]) if pooled else None
        self.empty_prompt = self.prompt([0])

    def prompt(self, indices) -> Prompt:
        if self.pooled is None:
            return Prompt(self.texts[indices])
        return Prompt(self.texts[indices], self.pooled[indices], self.sizes.expand(len(indices), -1))

    def features(self, indices, augmented=None, vision=True):
        return self.faces[list(indices)], None

    def load(self, indices):
        rows = super().load(indices)
        return type(rows)(**vars(rows) | {"prompt": self.prompt(indices)})


@pytest.mark.parametrize("host", ["comfy", "diffusers"])
def test_a_stage_trains_and_uses_the_head(twins, host, tmp_path):
    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser  # imports comfy

    data = TwinSource(twins.context, twins.sdxl)
    stage = STAGE.with_settings(
        localisation=0.0,
        rank=2,
        steps=1,
        batch=2,
        location_steps=2,
        find_location=1.0,
        lora_rank=1,
        drop_face=0.0,
        drop_all=0.0,
    )
    with torch.inference_mode(False), torch.enable_grad():
        denoiser = (
            ComfyDenoiser(twins.model)
            if host == "comfy"
            else DiffusersDenoiser(twins.unet, Shrink(), *_schedule(twins), "epsilon")
        )
        adapter = new_adapter(layer_map(twins.model), image_width=0, spatial_tokens=True, face_tokens=4)
        adapter.init_from_text(text_keys_values(twins.model))
        made = Training(Inputs(denoiser, data, tmp_path, held_out=0.0), [Job(stage, frozenset())], adapter).run()
        if host == "comfy":
            denoiser.close()
    assert made.adapter.config.location_channels == 4 and "location head: 2 steps" in made.report[0]
    again = load_adapter(save_adapter(made.adapter, tmp_path, "finds"))
    stir(again)
    torch.manual_seed(1)
    points, trust = again.locate(torch.randn(2, 4, 16, 16), torch.ones(1))
    assert points.shape == (2, 5, 2) and 0 <= points.min() and points.max() <= 1 and trust.shape == (2,)
    again.locate = lambda clean, sigma, region: (torch.tensor(TEMPLATE)[None].float() / SIZE, torch.ones(1))
    x, prompt = torch.randn(1, 4, 16, 16), conditioning(torch.randn(1, 77, twins.context), torch.randn(1, 1280))
    model = apply_person(twins.model, Person(again, torch.nn.functional.normalize(torch.randn(1, 512), dim=1)))
    first, second = (predict(model, x, SIGMA, prompt, times=times) for times in (1, 2))
    plain = predict(twins.model, x, SIGMA, prompt)
    assert torch.equal(first, plain) and torch.isfinite(second).all()
    assert (second - plain).abs().max() > 1e-3 * plain.abs().max()


def _schedule(twins) -> tuple[torch.Tensor, torch.Tensor]:
    sigmas = twins.model.model.model_sampling.sigmas.float()
    return 1 / (sigmas**2 + 1).sqrt(), sigmas / (sigmas**2 + 1).sqrt()
