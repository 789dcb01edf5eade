"""Training on a ComfyUI MODEL: it uses the loaded U-Net without a second copy."""

from collections.abc import Iterator

import comfy.ldm.modules.attention as attention
import comfy.ldm.modules.diffusionmodules.model as autoencoder
import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import torch
from torch import Tensor, nn

from ....adapter.attention import LayerStream, attend, triplet_attention
from ....bases import name_of
from ....bases.base import LATENT_PIXELS
from ....errors import FaceCDMError, UnsupportedModel
from ....training.denoiser import Watch, digest_of
from ....training.rows import Prompt
from ..unet import cross_attentions, layer_map, text_keys_values
from .dynamic import static_control, static_patcher
from .gradients import CALL, Call, Recast, Repeated, attention_with_gradients, leave_inference

_LINEARS = ("to_q", "to_k", "to_v", "to_out.0")


class ComfyDenoiser:
    """A `Denoiser` that computes with the MODEL's own U-Net, LoRA patches included, and restores it on `close`.

    Attention patches of the MODEL are not used.

    vae      a VAE, for `decode`
    control  a CONTROL_NET, for pose pictures
    dtype    of the computations; by default the MODEL's own, unless that is fp16, whose small gradients vanish

    Use it outside of inference mode, and call `prepare` whenever ComfyUI may have moved the models, as by sampling.
    """

    def __init__(self, model, vae=None, control=None, dtype: torch.dtype | None = None):
        self.layer_map = layer_map(model)
        sampling = model.get_model_object("model_sampling")
        self.prediction = _prediction(sampling)
        self.stride = getattr(model.model.model_config, "shuffle", 1)  # of the demo model
        _check(model)
        sigmas = sampling.sigmas.detach().double().cpu().clone()
        self.signal = (1 / (sigmas**2 + 1).sqrt()).float()
        self.noise = (sigmas / (sigmas**2 + 1).sqrt()).float()
        self._sigmas = sigmas.float()
        self.device = torch.device(model.load_device)
        self.dtype = dtype or natural_dtype(model)
        self.model = static_patcher(model).clone()
        self._vae, self._vae_patcher = vae, static_patcher(vae.patcher) if vae is not None else None
        self._control = static_control(control) if control is not None else None
        self._percent_to_sigma = sampling.percent_to_sigma
        self._patches = {
            key: _TrainedAttention(index) for index, (key, _, _) in enumerate(cross_attentions(self.model))
        }
        self._linears = dict(_linears(self.model))
        self._repeated: Repeated | None = None
        self._recast: Recast | None = None
        self._control_learns = False
        self.prepare()

    def prepare(self) -> None:
        """Have ComfyUI load the models, and enable gradients through them."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError("a ComfyDenoiser works outside of torch.inference_mode only")
        self._undo_recast()
        models = [
            self.model,
            *([self._vae_patcher] if self._vae is not None else []),
            *(self._control.get_models() if self._control is not None else []),
        ]
        comfy.model_management.load_models_gpu(models, memory_required=1e20, force_full_load=True)
        for patcher in models:
            leave_inference(patcher.model)
        self.compute_in(self.dtype)
        if self._control is not None:
            self._control.pre_run(self.model.model, self._percent_to_sigma)
            if (net := getattr(self._control, "control_model", None)) is not None:
                leave_inference(net)  # a control-LoRA creates it in pre_run

    def compute_in(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._undo_recast()
        self._recast = Recast(self._unet, dtype)

    def close(self) -> None:
        """Restore the models."""
        self.checkpoint(False)
        self._undo_recast()
        if self._control is not None:
            self._control.cleanup()

    def __enter__(self) -> "ComfyDenoiser":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _undo_recast(self) -> None:
        if self._recast is not None:
            self._recast.undo()
            self._recast = None

    @property
    def fingerprint(self) -> str:
        """A hash of the base model's family, schedule and a sample of every weight, LoRA patches included."""
        return digest_of(f"{name_of(self.layer_map)} {self.prediction}", (self.signal, *self._unet.parameters()))

    @property
    def control_fingerprint(self) -> str:
        """A hash of the ControlNet's weights. For a control-LoRA, its own weights: it has no model before it runs."""
        lora, model = (getattr(self._control, name, None) for name in ("control_weights", "control_model"))
        found = lora or ({} if model is None else model.state_dict())
        return digest_of("control", found.values()) if self._control is not None else ""

    @property
    def can_decode(self) -> bool:
        return self._vae is not None

    @property
    def _unet(self) -> nn.Module:
        return self.model.model.diffusion_model

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        prompt: Prompt,
        people: list[list[LayerStream]] | None = None,
        control: Tensor | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        rows, call = len(noisy), Call(people, watch)
        x = noisy.to(self.device, self.dtype)
        t = t.to(self.device)
        text = _all_rows(prompt.states, rows).to(self.device, self.dtype)
        vector = self._vector(prompt, x)
        options = {"optimized_attention_override": attention_with_gradients, CALL: call}
        if not call.is_idle:
            options["patches_replace"] = {"attn2": self._patches}
        residuals = None
        if control is not None and self._control is not None:
            residuals, options["patches"] = self._residuals(noisy, t, text, vector, control, options)
        return self._unet(x, t.float(), context=text, y=vector, control=residuals, transformer_options=options).float()

    def _vector(self, prompt: Prompt, x: Tensor) -> Tensor | None:
        """SDXL's second conditioning: the pooled text beside six sizes, each as sines and cosines."""
        if not isinstance(self.model.model, comfy.model_base.SDXL):
            return None
        if prompt.pooled is None:
            raise FaceCDMError("SDXL needs the prompts' pooled states: prepare the data set with SDXL's CLIP")
        rows, sizes = len(x), prompt.sizes
        if sizes is None:
            height, width = (LATENT_PIXELS * length for length in x.shape[-2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]])
        sizes = _all_rows(sizes, rows).to(self.device, torch.float32)
        waves = self.model.model.embedder(sizes.flatten()).view(rows, -1)
        return torch.cat([_all_rows(prompt.pooled, rows).to(self.device), waves], dim=1).to(self.dtype)

    def _residuals(
        self, noisy: Tensor, t: Tensor, text: Tensor, vector: Tensor | None, picture: Tensor, options: dict
    ) -> tuple[dict, dict]:
        """The ControlNet's residual of the middle block, and a patch that adds the others to the skips.

        Core adds them in place, to tensors that the backward pass still needs.
        """
        with torch.set_grad_enabled(self._control_learns and torch.is_grad_enabled()):
            found = self._controlled(noisy, t, text, vector, picture, options)
        skips = found.pop("output", [])

        def add(h: Tensor, skip: Tensor, _options: dict) -> tuple[Tensor, Tensor]:
            residual = skips.pop() if skips else None
            return h, skip if residual is None else skip + residual.to(skip)

        return found, {"output_block_patch": [add]}

    def _controlled(
        self, noisy: Tensor, t: Tensor, text: Tensor, vector: Tensor | None, picture: Tensor, options: dict
    ) -> dict[str, list]:
        self._control.set_cond_hint(picture)
        self._control.cond_hint = None
        sigma = self._sigmas.to(self.device)[t]
        scaled = noisy.to(self.device) * (sigma**2 + 1).sqrt().view(-1, 1, 1, 1)
        cond = {"c_crossattn": text} | ({"y": vector} if vector is not None else {})
        return self._control.get_control(scaled, sigma, cond, 1, {**options, CALL: Call(None, None)})

    def decode(self, latents: Tensor) -> Tensor:
        if self._vae is None:
            raise FaceCDMError("a loss needs decoded pictures: connect a VAE")
        latents = self.model.model.latent_format.process_out(latents)
        pixels = self._vae_patcher.model.decode(latents.to(self._vae.device, self._vae.vae_dtype)).float()
        centred = float(self._vae.process_output(torch.zeros(1))) > 0  # so −1…1 becomes 0…1
        return pixels if centred else pixels * 2 - 1

    def linears(self) -> dict[str, nn.Linear]:
        return self._linears

    def layers(self) -> dict[str, nn.Linear | nn.Conv2d]:
        blocks = tuple(f"diffusion_model.{part}_block" for part in ("input", "middle", "output"))
        return {
            name: module
            for name, module in self.model.model.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv2d))
            and name.startswith(blocks)
            and name != "diffusion_model.input_blocks.0.0"
        }

    def control_layers(self) -> dict[str, nn.Module]:
        net = getattr(self._control, "control_model", None)
        return (
            {}
            if net is None
            else {
                f"control_model.{name}": module
                for name, module in net.named_modules()
                if type(module).__name__ in ("Linear", "Conv2d")
                and name.startswith(("input_blocks.", "middle_block."))
                and name != "input_blocks.0.0"
            }
        )

    def learn_control(self, on: bool) -> None:
        self._control_learns = on

    def text_keys_values(self) -> Iterator[tuple[Tensor, Tensor]]:
        return text_keys_values(self.model)

    def checkpoint(self, on: bool) -> None:
        if self._repeated is not None:
            self._repeated.undo()
            self._repeated = None
        if on:
            modules = _of(self._unet, openaimodel.ResBlock, attention.BasicTransformerBlock)
            if self._vae is not None:
                modules += _of(self._vae_patcher.model, autoencoder.ResnetBlock, autoencoder.AttnBlock)
            self._repeated = Repeated(modules)


class _TrainedAttention:
    """The cross-attention of layer `index` of a U-Net in training, with the streams."""

    def __init__(self, index: int):
        self.index = index

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict) -> Tensor:
        call: Call = extra_options[CALL]
        call.observe(self.index, q, k)
        heads = extra_options["n_heads"]
        text = attend(q, k, v, heads)
        streams = call.streams(self.index)
        return triplet_attention(q, text, streams, heads, attend) if streams else text


def natural_dtype(model) -> torch.dtype:
    """The dtype that a MODEL computes in; fp16 is replaced by bf16 if the device is fast in bf16, else by fp32."""
    dtype = model.get_model_object("manual_cast_dtype") or model.model_dtype()
    if dtype in (torch.float32, torch.bfloat16):
        return dtype
    wide = comfy.model_management.should_use_bf16(model.load_device)
    return torch.bfloat16 if wide else torch.float32


def _prediction(sampling) -> str:
    known = {
        comfy.model_sampling.EPS.calculate_denoised: "epsilon",
        comfy.model_sampling.V_PREDICTION.calculate_denoised: "v",
    }
    kind = known.get(type(sampling).calculate_denoised)
    if kind is None or not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete) or sampling.sigma_data != 1:
        raise UnsupportedModel(
            "training needs a MODEL that predicts noise (eps) or velocity (v) at a thousand steps; "
            "connect it without nodes such as ModelSamplingDiscrete's lcm or x0 before this one"
        )
    return kind


def _check(model) -> None:
    unet, base = model.model.diffusion_model, model.model
    if unet.in_channels != base.latent_format.latent_channels:
        raise UnsupportedModel(
            "this MODEL takes a mask or a picture beside the latents (inpainting, depth, …); "
            "train on the plain one of its family"
        )
    if unet.num_classes is not None and not isinstance(base, comfy.model_base.SDXL):
        raise UnsupportedModel(f"FaceCDM cannot condition a {type(base).__name__} in training; use SD1.5, SD2 or SDXL")


def _linears(model) -> Iterator[tuple[str, nn.Linear]]:
    for _, name, _ in cross_attentions(model):
        block = name.removesuffix(".attn2")
        for part in (f"{block}.{which}.{linear}" for which in ("attn1", "attn2") for linear in _LINEARS):
            yield part, model.model.get_submodule(part)


def _all_rows(value: Tensor, rows: int) -> Tensor:
    return value if len(value) == rows else value.expand(rows, *value.shape[1:])


def _of(module: nn.Module, *kinds: type) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, kinds)]
