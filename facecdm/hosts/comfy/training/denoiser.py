"""Training on a ComfyUI MODEL: it uses the loaded U-Net without a second copy."""

from collections.abc import Iterator

import comfy.ldm.modules.attention as attention
import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.model_base
import comfy.model_sampling
import torch
from torch import Tensor, nn

from ....adapter.attention import LayerStream, attend, triplet_attention
from ....bases.base import LATENT_PIXELS
from ....errors import FaceCDMError, UnsupportedModel
from ....training.denoiser import Watch
from ....training.repeated import CALL
from ....training.rows import Prompt
from ..unet import cross_attentions, text_keys_values
from .gradients import Call, attention_with_gradients
from .loaded import LoadedModel, all_rows, modules_of

_LINEARS = ("to_q", "to_k", "to_v", "to_out.0")


class ComfyDenoiser(LoadedModel):
    """A `Denoiser` that computes with the MODEL's own U-Net, LoRA patches included, and restores it on `close`.

    Attention patches of the MODEL are not used.

    vae      a VAE, for `decode`
    control  a CONTROL_NET, for pose pictures
    dtype    of the computations; by default the MODEL's own, unless that is fp16, whose small gradients vanish

    Use it outside of inference mode, and call `prepare` whenever ComfyUI may have moved the models, as by sampling.
    """

    def __init__(self, model, vae=None, control=None, dtype: torch.dtype | None = None):
        layers = cross_attentions(model)
        sampling = model.get_model_object("model_sampling")
        self.prediction = _prediction(sampling)
        self.stride = vars(model.model.model_config).get("shuffle", 1)  # the demo model's; others: 1
        _check(model, self.stride)
        sigmas = sampling.sigmas.detach().double().cpu().clone()
        self.signal = (1 / (sigmas**2 + 1).sqrt()).float()
        self.noise = (sigmas / (sigmas**2 + 1).sqrt()).float()
        self._sigmas = sigmas.float()
        super().__init__(model, vae, control, dtype)
        self._patches = {layer.key: _TrainedAttention(index) for index, layer in enumerate(layers)}
        self._linears = dict(_linears(self.model))

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        prompt: Prompt,
        people: list[list[LayerStream]] | None = None,
        control: Tensor | None = None,
        watch: Watch | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        rows, call = len(noisy), Call(people, watch)
        x = noisy.to(self.device, self.dtype)
        t = t.to(self.device)
        text = all_rows(prompt.states, rows).to(self.device, self.dtype)
        vector = self._vector(prompt, x)
        options = {"optimized_attention_override": attention_with_gradients, CALL: call}
        if not call.is_idle:
            options["patches_replace"] = {"attn2": self._patches}
        residuals = None
        if control is not None and self._control is not None:
            residuals, options["patches"] = self._residuals(noisy, t, text, vector, control, options)
        return self.network(
            x, t.float(), context=text, y=vector, control=residuals, transformer_options=options
        ).float()

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
        sizes = all_rows(sizes, rows).to(self.device, torch.float32)
        waves = self.model.model.embedder(sizes.flatten()).view(rows, -1)
        return torch.cat([all_rows(prompt.pooled, rows).to(self.device), waves], dim=1).to(self.dtype)

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

    def text_keys_values(self) -> Iterator[tuple[Tensor, Tensor]]:
        return text_keys_values(self.model)

    def _repeated(self) -> list[nn.Module]:
        return modules_of(self.network, openaimodel.ResBlock, attention.BasicTransformerBlock)


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


def _check(model, stride: int) -> None:
    unet, base = model.model.diffusion_model, model.model
    if unet.in_channels != base.latent_format.latent_channels * stride**2:
        raise UnsupportedModel(
            "this MODEL takes a mask or a picture beside the latents (inpainting, depth, …); "
            "train on the plain model of its family"
        )
    if unet.num_classes is not None and not isinstance(base, comfy.model_base.SDXL):
        raise UnsupportedModel(f"FaceCDM cannot condition a {type(base).__name__} in training; use SD1.5, SD2 or SDXL")


def _linears(model) -> Iterator[tuple[str, nn.Linear]]:
    for _, name, _ in cross_attentions(model):
        block = name.removesuffix(".attn2")
        for part in (f"{block}.{which}.{linear}" for which in ("attn1", "attn2") for linear in _LINEARS):
            yield part, model.model.get_submodule(part)
