"""A person stays in a DiT that core's TorchCompileModel compiles, before Apply FaceCDM or after it."""

import pytest
import qwen_image
import torch
import z_image
from twins import conditioning, predict, stir

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.person import Person
from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.dit import is_qwen_image, is_z_image
from facecdm.hosts.comfy.sampling.apply import apply_person

SIGMA = 0.7


@pytest.mark.parametrize("family, is_kind", [(qwen_image, is_qwen_image), (z_image, is_z_image)], ids=["qwen", "z"])
def test_a_compiled_dit_is_recognised(in_comfy, family, is_kind):
    dit = family.make_model().model.diffusion_model
    compiled = torch.compile(dit, backend="eager")
    assert type(compiled) is not type(dit) and is_kind(dit) and is_kind(compiled)


@pytest.mark.parametrize("first", ["compile", "apply"])
def test_z_image(in_comfy, first):
    if not z_image.blocks_are_patched():
        pytest.skip("this ComfyUI calls no patch after the blocks of Z-Image")
    import torch._dynamo.config
    from comfy_api.torch_helpers.torch_compile import set_torch_compile_wrapper

    def compiled(model):
        model = model.clone()
        set_torch_compile_wrapper(model, "eager")
        return model

    model, generator = z_image.make_model(), torch.Generator().manual_seed(0)
    sizes = dict(face_rank=8, image_width=20, image_layers=1, token_width=64, cell_width=128)
    adapter = stir(TripletAdapter(AdapterConfig.new(layer_map(model), **sizes)).requires_grad_(False).eval())
    person = Person(adapter, torch.nn.functional.normalize(torch.randn(1, 512, generator=generator), dim=1))
    x, prompt = torch.randn(1, 16, 8, 8, generator=generator), conditioning(torch.randn(1, 7, 40, generator=generator))
    shown = predict(apply_person(model, person), x, SIGMA, prompt)
    assert not torch.equal(shown, predict(model, x, SIGMA, prompt))
    both = apply_person(compiled(model), person) if first == "compile" else compiled(apply_person(model, person))
    with torch._dynamo.config.patch(disable=True):  # the module is wrapped, and runs eagerly
        assert torch.equal(predict(both, x, SIGMA, prompt), shown)
