"""A ComfyUI MODEL in training: predictions and gradients equal diffusers', and the MODEL is restored."""

from types import SimpleNamespace

import pytest
import torch
from twins import SMALL_SD15, SMALL_SDXL, conditioning, make_twins, new_adapter, predict, stir

from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.errors import FaceCDMError, UnsupportedModel
from facecdm.hosts.diffusers.sampling import DiffusersHost
from facecdm.training.lora import Lora
from facecdm.training.rows import Prompt

ROWS, SIZE = 3, (8, 16)


@pytest.fixture(scope="module")
def denoiser_class(in_comfy):
    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser

    return ComfyDenoiser


@pytest.fixture(scope="module", params=[SMALL_SD15, SMALL_SDXL], ids=lambda spec: spec.name)
def twins(in_comfy, request):
    return make_twins(request.param)


@pytest.fixture(scope="module")
def sd15(in_comfy):
    return make_twins(SMALL_SD15)


class Step:
    """One batch, an adapter and a LoRA that are not zero, and what they learn from it."""

    def __init__(self, context: int, layer_map, linears, seed: int = 0):
        torch.manual_seed(seed)
        self.noisy, self.t = torch.randn(ROWS, 4, *SIZE), torch.tensor([5, 400, 999])
        height, width = (8 * length for length in SIZE)
        sizes = torch.tensor(
            [[height, width, 0, 0, height, width], [512, 512, 8, 16, height, width], [1024, 512, 8, 16, height, width]]
        ).float()
        self.prompt = Prompt(torch.randn(ROWS, 77, context), torch.randn(ROWS, 1280), sizes)
        self.target = torch.randn(ROWS, 4, *SIZE)
        self.reference_batch = ReferenceBatch(
            torch.nn.functional.normalize(torch.randn(ROWS, 512), dim=1),
            torch.randn(ROWS, 7, 32),
            torch.tensor([True, False, True]),
            torch.tensor([True, True, False]),
        )
        self.adapter = stir(new_adapter(layer_map)).requires_grad_(True)
        self.lora = Lora.new(linears, 4)
        for part in self.lora.parts.values():
            part.up.data.normal_(0, 0.1)

    def people(self, denoiser, watch=None):
        return self.reference_batch.streams(
            self.adapter, self.prompt.states, (denoiser.noise / denoiser.signal)[self.t], denoiser.dtype, None, watch
        )

    def predict(self, denoiser, **more):
        return denoiser.predict(self.noisy, self.t, self.prompt, self.people(denoiser), **more)

    def predict_and_backward(self, denoiser, **more) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with self.lora.on(denoiser.layers()):
            prediction = self.predict(denoiser, **more)
            return prediction.detach(), self.learn(prediction)

    def learn(self, prediction) -> dict[str, torch.Tensor]:
        """Gradients by the parameter's name."""
        torch.nn.functional.mse_loss(prediction, self.target).backward()
        parts = {"adapter": self.adapter, **self.lora.parts}
        found = {
            f"{name}.{key}": value.grad
            for name, part in parts.items()
            for key, value in part.named_parameters()
            if value.grad is not None
        }
        for part in parts.values():
            part.zero_grad()
        return found


def to(observed: list):
    return lambda *what: observed.append(what)


def same(ours: dict, theirs: dict, tolerance: float = 1e-4) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=tolerance * max(value.abs().max().item(), 1e-9))


def test_what_a_models_configuration_lacks_is_not_asked_for(twins, denoiser_class, monkeypatch):
    """In ComfyUI 0.33 an attribute that it lacks is None, with a warning."""
    asked = []
    lacking = lambda self, name: asked.append(name)  # noqa: E731
    monkeypatch.setattr(type(twins.model.model.model_config), "__getattr__", lacking, raising=False)
    with denoiser_class(twins.model) as denoiser:
        assert denoiser.stride == 1
    assert not asked


@pytest.mark.parametrize("touched", ["linears", "layers"])
def test_gradients_equal_diffusers(twins, denoiser_class, touched):
    import comfy.utils

    with denoiser_class(twins.model) as denoiser:
        step = Step(twins.context, denoiser.layer_map, getattr(denoiser, touched)())
        ours, learnt = step.predict_and_backward(denoiser)
        people = step.people(denoiser)

    host = DiffusersHost(twins.unet)
    host._session.streams = lambda index, positions: people[index]
    files = {
        f"diffusion_model.{file}": name
        for name, file in comfy.utils.unet_to_diffusers(twins.model.model.model_config.unet_config).items()
    }
    linears = {
        name: twins.unet.get_submodule(files[f"{name}.weight"].removesuffix(".weight")) for name in step.lora.parts
    }
    added = {"text_embeds": step.prompt.pooled, "time_ids": step.prompt.sizes} if twins.sdxl else None
    with step.lora.on(linears):
        theirs = twins.unet(step.noisy, step.t, step.prompt.states, added_cond_kwargs=added).sample
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())
        same(learnt, step.learn(theirs))
    assert sum(value.abs().max() > 1e-7 for value in learnt.values()) > 0.9 * len(learnt)


def test_checkpointing_gives_the_same_gradients_and_calls_the_observer_once(twins, denoiser_class):
    with denoiser_class(twins.model) as denoiser:
        step = Step(twins.context, denoiser.layer_map, denoiser.linears())
        results = []
        for on in (False, True):
            denoiser.checkpoint(on)
            observed, outputs, kept = [], [], 0

            def keep(tensor):
                nonlocal kept
                kept += tensor.numel()
                return tensor

            with step.lora.on(denoiser.linears()):
                with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                    prediction = denoiser.predict(
                        step.noisy, step.t, step.prompt, step.people(denoiser, outputs.append), watch=to(observed)
                    )
                extra = sum(x.square().mean() for _, q, k in observed for x in (q, k))
                (extra + sum(x.abs().mean() for x in outputs)).backward(retain_graph=True)
                results.append((prediction.detach(), step.learn(prediction), kept))
            assert len(observed) == len(outputs) == len(denoiser.layer_map.layers)
            assert sorted(index for index, _, _ in observed) == list(range(len(observed)))
    (plain, learnt, memory), (again, learnt_again, less) = results
    assert torch.equal(plain, again)
    same(learnt_again, learnt, 1e-6)
    assert less < 0.5 * memory  # what autograd keeps outside of the repeated blocks


def test_alphas_are_the_models(sd15, denoiser_class):
    import comfy.model_sampling

    denoiser = denoiser_class(sd15.model)
    assert torch.allclose(denoiser.signal**2 + denoiser.noise**2, torch.ones(1000))
    assert denoiser.prediction == "epsilon" and denoiser.signal[0] > 0.999 and 0.06 < denoiser.signal[-1] < 0.08

    class Velocity(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    model = sd15.model.clone()
    model.add_object_patch("model_sampling", Velocity(zsnr=True))
    other = denoiser_class(model)
    assert other.prediction == "v" and other.signal[-1] < 1e-3


def test_refuses_what_it_cannot_train(sd15, denoiser_class):
    import comfy.model_sampling

    class Image(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0):
        pass

    model = sd15.model.clone()
    model.add_object_patch("model_sampling", Image())
    with pytest.raises(UnsupportedModel, match="eps"):
        denoiser_class(model)
    denoiser = denoiser_class(sd15.model)
    with pytest.raises(FaceCDMError, match="VAE"):
        denoiser.decode(torch.zeros(1, 4, 8, 8))


def test_samples_as_before_once_it_is_closed(sd15, denoiser_class):
    torch.manual_seed(1)
    x, text = torch.randn(1, 4, 8, 8) * 3, conditioning(torch.randn(1, 77, sd15.context))
    before = predict(sd15.model, x, 3.0, text)
    with denoiser_class(sd15.model, dtype=torch.bfloat16) as denoiser:
        denoiser.checkpoint(True)
        step = Step(sd15.context, denoiser.layer_map, denoiser.linears())
        rough, learnt = step.predict_and_backward(denoiser)
        denoiser.compute_in(torch.float32)
        exact, reference = step.predict_and_backward(denoiser)
        assert 1e-4 < (rough - exact).abs().max() / exact.abs().max() < 0.1
        assert torch.equal(predict(denoiser.model, x, 3.0, text), before)
    assert torch.equal(predict(sd15.model, x, 3.0, text), before)
    unet = sd15.model.model.diffusion_model
    assert not any("forward" in vars(part) or "forward_comfy_cast_weights" in vars(part) for part in unet.modules())


def test_weights_loaded_in_inference_mode_are_replaced(in_comfy, denoiser_class):
    with torch.inference_mode():
        twins = make_twins(SMALL_SD15)
        assert all(value.is_inference() for value in twins.model.model.diffusion_model.parameters())
        with torch.inference_mode(False):
            with denoiser_class(twins.model) as denoiser:
                step = Step(twins.context, denoiser.layer_map, denoiser.linears())
                learnt = step.predict_and_backward(denoiser)[1]
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        denoiser_class(twins.model)
    assert len(learnt) > 200 and all(torch.isfinite(value).all() for value in learnt.values())


def test_weights_of_another_dtype_are_not_kept_twice(in_comfy, denoiser_class):
    """fp16 weights computed in fp32: the same gradients as of fp32 weights, and no cast copy waits for them."""
    half = make_twins(SMALL_SD15, torch.float16, torch.float32)
    for value in half.unet.parameters():
        value.data = value.data.half().float()
    with denoiser_class(half.model) as denoiser:
        assert denoiser.dtype == torch.float32
        step, shapes = Step(half.context, denoiser.layer_map, denoiser.linears()), []

        def keep(tensor):
            shapes.append(tuple(tensor.shape))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            learnt = step.predict_and_backward(denoiser)[1]
    weights = {tuple(value.shape) for value in half.unet.parameters() if value.dim() == 4 and value.shape[-1] == 3}
    assert not weights & set(shapes)
    full = make_twins(SMALL_SD15)
    for ours, theirs in zip(
        full.model.model.diffusion_model.parameters(), half.model.model.diffusion_model.parameters()
    ):
        ours.data = theirs.float()
    with denoiser_class(full.model) as denoiser:
        reference = Step(full.context, denoiser.layer_map, denoiser.linears())
        same(learnt, reference.predict_and_backward(denoiser)[1])


def test_a_control_that_fails_leaves_the_model_as_it_was(in_comfy, denoiser_class):
    class Failing:
        def get_models(self):
            return []

        def copy(self):
            return self

        def pre_run(self, *args):
            raise ValueError("of another base")

    model = make_twins(SMALL_SD15, torch.float16, torch.float32).model
    with pytest.raises(ValueError, match="of another base"):
        denoiser_class(model, control=Failing())
    assert not any("forward_comfy_cast_weights" in vars(part) for part in model.model.diffusion_model.modules())


def test_patched_in_loras_are_part_of_the_base(sd15, denoiser_class):
    model = sd15.model.clone()
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_q.weight"
    generator = torch.Generator().manual_seed(3)
    weight = model.model.state_dict()[key]
    delta = torch.randn(weight.shape, generator=generator)
    model.add_patches({key: (delta,)})
    with denoiser_class(sd15.model) as plain:
        step = Step(sd15.context, plain.layer_map, plain.linears())
        without = step.predict(plain).detach()
    with denoiser_class(model) as denoiser:
        assert torch.equal(next(iter(denoiser.text_keys_values()))[0], next(iter(plain.text_keys_values()))[0])
        with_lora = step.predict(denoiser).detach()
    assert (with_lora - without).abs().max() > 1e-3
    with denoiser_class(sd15.model) as plain:
        torch.testing.assert_close(step.predict(plain).detach(), without)


def test_a_controlnet_is_used_without_training_it(in_comfy, denoiser_class):
    from control_twins import make_control_twins

    twins, control = make_twins(SMALL_SDXL), make_control_twins(SMALL_SDXL)
    with denoiser_class(twins.model, control=control.net) as denoiser:
        step = Step(twins.context, denoiser.layer_map, denoiser.linears())
        pose = torch.rand(ROWS, 3, *(8 * length for length in SIZE))
        ours = denoiser.predict(step.noisy, step.t, step.prompt, control=pose)
        learnt = step.predict_and_backward(denoiser, control=pose)[1]
        denoiser.checkpoint(True)
        same(step.predict_and_backward(denoiser, control=pose)[1], learnt, 1e-6)
    added = {"text_embeds": step.prompt.pooled, "time_ids": step.prompt.sizes}
    down, middle = control.model(
        step.noisy, step.t, step.prompt.states, pose, added_cond_kwargs=added, return_dict=False
    )
    theirs = twins.unet(
        step.noisy,
        step.t,
        step.prompt.states,
        added_cond_kwargs=added,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())
    assert len(learnt) > 200


def test_a_controlnet_has_a_fingerprint(in_comfy, denoiser_class):
    import comfy.controlnet
    from control_twins import make_control_twins

    def fingerprint(control) -> str:
        with denoiser_class(twins.model, control=control) as denoiser:
            return denoiser.control_fingerprint

    def lora(value: float):
        return comfy.controlnet.ControlLora({"input_hint_block.0.weight": torch.full((16, 3, 3, 3), value)})

    twins, one, other = make_twins(SMALL_SDXL), *(make_control_twins(SMALL_SDXL, seed).net for seed in (0, 1))
    found = [fingerprint(control) for control in (None, one, other)]
    assert found[0] == "" and len(set(found)) == 3 and fingerprint(one.copy()) == found[1]
    assert denoiser_class(twins.model, control=lora(1.0)).control_fingerprint != (
        denoiser_class(twins.model, control=lora(2.0)).control_fingerprint
    )


def test_pictures_have_gradients(in_comfy, denoiser_class):
    """The demo model: v prediction, and latents that the autoencoder turns into pixels."""
    from facecdm.demo.weights import read
    from facecdm.hosts.comfy.demo.model import build_model, build_vae

    with torch.inference_mode():
        weights = read()
        model, vae = build_model(weights), build_vae(weights)
    with denoiser_class(model, vae) as denoiser:
        assert denoiser.prediction == "v"
        latents = torch.randn(1, model.model.latent_format.latent_channels, 4, 4, requires_grad=True)
        pixels = denoiser.decode(latents)
        pixels.square().mean().backward()
    assert pixels.shape == (1, 3, 32, 32) and latents.grad.abs().min() > 0
    with torch.inference_mode():
        picture = vae.decode(latents.detach())
    torch.testing.assert_close(picture, (pixels.detach().clamp(-1, 1).movedim(1, -1) + 1) / 2, rtol=0, atol=1e-5)


def test_pictures_of_a_vae_between_0_and_1(sd15, denoiser_class):
    """A VAE whose own output is a picture in 0…1: a loss gets −1…1."""
    with denoiser_class(sd15.model) as denoiser:
        decoder = SimpleNamespace(decode=lambda latents: latents[:, :3])
        denoiser._vae = SimpleNamespace(device="cpu", vae_dtype=torch.float32, process_output=lambda pixels: pixels)
        denoiser._vae_patcher = SimpleNamespace(model=decoder)
        latents = torch.rand(1, 4, 2, 2)
        expected = 2 * denoiser.model.model.latent_format.process_out(latents)[:, :3] - 1
        torch.testing.assert_close(denoiser.decode(latents), expected)


def test_sdxls_sizes_are_the_pictures_without_others(in_comfy, denoiser_class):
    step = torch.randn(2, 4, 8, 16), torch.tensor([5, 400])
    twins = make_twins(SMALL_SDXL)
    states, pooled = torch.randn(2, 77, twins.context), torch.randn(2, 1280)
    with denoiser_class(twins.model) as denoiser, torch.no_grad():
        given, default, moved = (
            denoiser.predict(*step, Prompt(states, pooled, sizes))
            for sizes in (torch.tensor([[64.0, 128, 0, 0, 64, 128]]), None, torch.tensor([[64.0, 128, 0, 1, 64, 128]]))
        )
    assert default.equal(given) and not moved.equal(given)


def test_a_model_in_dynamic_vram_is_trained_on_its_non_dynamic_clone(sd15, denoiser_class, in_comfy):
    """ComfyUI 0.33 and later; a CPU has none, so a patcher says of itself that it is dynamic."""
    from comfy.model_patcher import ModelPatcher
    from control_twins import make_control_twins

    from facecdm.hosts.comfy.training.dynamic import static_control

    class Dynamic(ModelPatcher):
        loader = None

        def is_dynamic(self):
            return True

        def clone(self, disable_dynamic=False):
            if disable_dynamic and self.loader is None:
                raise RuntimeError("Cannot create non-dynamic delegate: cached_patcher_init is not initialized.")
            return self.loader() if disable_dynamic else super().clone()

    plain = sd15.model
    dynamic = Dynamic(plain.model, plain.load_device, plain.offload_device)
    with pytest.raises(UnsupportedModel, match="--disable-dynamic-vram"):
        denoiser_class(dynamic)
    dynamic.loader = make_twins(SMALL_SD15).model.clone
    with denoiser_class(dynamic) as denoiser:
        assert (
            denoiser.model.model is not plain.model
            and not hasattr(denoiser.model, "is_dynamic")
            or (not denoiser.model.is_dynamic())
        )
        step = Step(sd15.context, denoiser.layer_map, denoiser.linears())
        assert len(step.predict_and_backward(denoiser)[1]) > 200
    control = make_control_twins(SMALL_SDXL).net
    assert static_control(control).control_model is control.control_model
    wrapped = control.control_model_wrapped
    control.control_model_wrapped = Dynamic(wrapped.model, wrapped.load_device, wrapped.offload_device)
    copies = []
    control.deepclone_multigpu = lambda device: copies.append(device) or "a deep copy"
    assert static_control(control) == "a deep copy" and copies == [control.load_device]
