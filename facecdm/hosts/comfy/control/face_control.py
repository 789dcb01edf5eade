"""A ControlNet in ComfyUI that reads face tokens in place of the text."""

from collections.abc import Callable
from itertools import chain
from uuid import uuid4

import comfy.conds
import torch
from comfy.controlnet import ControlBase
from torch import Tensor
from torch.nn import functional as F

from ....bases import BASES
from ....bases.base import LATENT_PIXELS
from ....bases.flux import FLUX
from ....bases.grid import token_grid
from ....errors import FaceCDMError, Mismatch, UnsupportedModel
from .. import running_node
from ..sampling.chunks import UNKNOWN_IMAGES, rows_for_images, sampled_images
from ..sampling.run import run_of

Tokens = Callable[[Tensor], Tensor]  # text [1, T, context] of a prompt → face tokens [1 or pictures, N, context]
_CONTEXT = "crossattn_controlnet"  # the key that core's ControlNets prefer over the text
_AREAS = "facecdm_areas"


class TokensPerImage(comfy.conds.CONDRegular):
    """Face tokens [pictures, N, context]. The chunks of a batch stay a list, since only the call of the net shows which
    picture a row belongs to.
    """

    def _copy_with(self, cond):
        """Keep the tokens of all pictures: core's context windows copy a conditioning with those of the window only,
        and `FaceControl` selects them itself."""
        return self

    def process_cond(self, batch_size, **kwargs):
        return self

    def can_concat(self, other):
        return self.cond.shape[1:] == other.cond.shape[1:]

    def concat(self, others):
        return [self.cond, *(other.cond for other in others)]


class Areas(comfy.conds.CONDRegular):
    """Area of each chunk of a batch, [chunks, 4]: height, width, top, left in latents; zeros mean the whole picture."""

    def process_cond(self, batch_size, area=None, **kwargs):
        return self._copy_with(torch.tensor([[0, 0, 0, 0] if area is None else list(area)]))


class FaceControl(ControlBase):
    """A link in a conditioning's chain of ControlNets.

    net   the ControlNet
    key   the conditioning's key for the tokens that it reads; with core's own `cross_attn_controlnet`, all nets of the
          chain would read the same person's tokens
    mask  [1, H, W] in 0…1 over the whole picture: where the net acts; None means everywhere
    """

    def __init__(self, net: ControlBase, key: str, mask: Tensor | None = None):
        super().__init__()
        self.net, self.key, self.mask = net, key, mask
        self._warned = False  # in this sampling

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        before, options = None, (batched_number, transformer_options)
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(x_noisy, t, cond, *options)
        shown = cond
        if self.key in cond:
            tokens = cond[self.key]
            if isinstance(tokens, list):
                rows, images = len(x_noisy) // len(tokens), sampled_images(transformer_options or {})
                if images is not None and len(images) != rows and not self._warned:
                    self._warned = True
                    running_node.warn([UNKNOWN_IMAGES])
                tokens = torch.cat([rows_for_images(chunk, rows, images) for chunk in tokens]).to(x_noisy.device)
            shown = {**cond, _CONTEXT: tokens}
        control = self.net.get_control(x_noisy, t, shown, *options)
        if control is None:
            return before
        if self.mask is not None:
            mask = self._mask_for(x_noisy, cond.get(_AREAS), transformer_options or {})
            grid = token_grid(*x_noisy.shape[-2:], FLUX.patch)
            masked: dict[int, Tensor | None] = {}  # a net gives a DiT one output for many blocks
            for value in chain.from_iterable(control.values()):
                if id(value) not in masked:
                    masked[id(value)] = _masked(value, mask, grid)
            control = {part: [masked[id(value)] for value in values] for part, values in control.items()}
        return self.control_merge(control, before, None)

    def _mask_for(self, x_noisy: Tensor, areas: Tensor | None, options: dict) -> Tensor:
        """[1 or rows, h, w]: the part of the mask that each row's conditioning covers.

        The picture's size is unknown if no person is applied to the MODEL; then the mask's size is used.
        """
        if areas is None or not areas.any():
            return self.mask
        parts, run = [[int(value) for value in area] for area in areas], run_of(options)
        sizes = run.size if run else tuple(side // LATENT_PIXELS for side in self.mask.shape[-2:])
        size = [max(sizes[axis], *(part[axis] + part[axis + 2] for part in parts)) for axis in (0, 1)]
        whole, rows = F.interpolate(self.mask[:, None].float(), size, mode="area")[:, 0], len(x_noisy) // len(parts)
        cut = [
            whole[:, top : top + height, left : left + width] if height else whole for height, width, top, left in parts
        ]
        return torch.cat([part.expand(rows, -1, -1) for part in cut])

    def pre_run(self, model, percent_to_timestep_function):
        super().pre_run(model, percent_to_timestep_function)
        self.net.pre_run(model, percent_to_timestep_function)
        self._warned = False

    def cleanup(self):
        super().cleanup()
        self.net.cleanup()

    def get_models(self):
        return super().get_models() + self.net.get_models()

    def get_extra_hooks(self):
        return super().get_extra_hooks() + self.net.get_extra_hooks()

    def inference_memory_requirements(self, dtype):
        return super().inference_memory_requirements(dtype) + self.net.inference_memory_requirements(dtype)

    def copy(self):
        copied = FaceControl(self.net.copy(), self.key, self.mask)
        self.copy_to(copied)
        return copied

    def deepclone_multigpu(self, load_device, autoregister=False):
        """A copy whose net is on another GPU. Newer ComfyUI asks every link of a chain for one."""
        cloned = FaceControl(self.net.deepclone_multigpu(load_device), self.key, self.mask)
        self.copy_to(cloned)
        if autoregister:
            self.multigpu_clones[load_device] = cloned
        return cloned


def control_with_faces(
    positive: list,
    negative: list,
    net: ControlBase,
    picture: Tensor,
    shown: Tokens,
    empty: Tokens,
    strength: float,
    start: float,
    end: float,
    mask: Tensor | None = None,
    vae=None,
) -> tuple[list, list]:
    """Add a ControlNet to both conditionings; it reads the tokens `shown` with the positive prompts and `empty` with
    the negative ones.

    picture     control image [B, H, W, 3] in 0…1
    start, end  shares of the sampling between which it acts
    mask        [1, H, W] in 0…1: where it acts; None means everywhere
    vae         encodes the control image for a net that reads latents
    """
    key, links = f"facecdm_face_tokens_{uuid4().hex}", {}

    def linked(text: Tensor, options: dict, tokens: Tokens) -> list:
        before = options.get("control")
        if before not in links:  # both conditionings share a link, and so a batch
            own = net.copy().set_cond_hint(picture.movedim(-1, 1), strength, (start, end), vae)
            links[before] = FaceControl(own, key, mask).set_previous_controlnet(before)
        read = tokens(text)
        kind = comfy.conds.CONDCrossAttn if len(read) == 1 else TokensPerImage
        own = {**options.get("model_conds", {}), key: kind(read)}
        if mask is not None:
            own[_AREAS] = Areas(torch.zeros(1, 4, dtype=torch.long))
        return [text, {**options, "control": links[before], "control_apply_to_uncond": False, "model_conds": own}]

    return ([linked(*entry, shown) for entry in positive], [linked(*entry, empty) for entry in negative])


def check_net(net, context: int, vae=None) -> None:
    """Raises UnsupportedModel for a net without cross-attention, Mismatch for tokens of another width, FaceCDMError for
    a net that reads latents without a VAE."""
    model = getattr(net, "control_model", None)
    if model is None:
        if hasattr(net, "t2i_model"):
            raise UnsupportedModel(
                "control_net is a T2I-Adapter, which cannot read face tokens. Connect a ControlNet, or "
                "apply this one with core's Apply ControlNet."
            )
        return  # a Control-LoRA, which has no attention weights before sampling
    widths = {module.in_features for name, module in model.named_modules() if name.endswith("attn2.to_k")}
    if hasattr(model, "txt_in"):  # of a DiT
        widths = {model.txt_in.in_features}
    if not widths:
        raise UnsupportedModel(
            f"control_net is a {type(model).__name__} without cross-attention, so it cannot read face "
            "tokens. Use a ControlNet for SD1.5, SD2, SDXL or Flux.1."
        )
    if context not in widths:
        base = next((base.name for base in BASES.values() if base.text_width == max(widths)), "another base")
        raise Mismatch(
            f"the adapter's face tokens have {context} features, and control_net reads {max(widths)} "
            f"({base}): load a ControlNet and an adapter for the same base"
        )
    if getattr(net, "latent_format", None) is not None and vae is None:
        raise FaceCDMError("control_net reads its picture as latents: connect the base model's VAE to vae")


def _masked(value: Tensor | None, mask: Tensor, grid: tuple[int, int]) -> Tensor | None:
    """An output times the mask: a feature map [B, C, h, w], or a DiT's tokens [B, n, C] on a `grid`."""
    if value is None:
        return None
    if value.ndim == 3:
        weights = F.interpolate(mask[:, None].to(value.device, torch.float32), grid, mode="area")
        return value * weights.flatten(2).movedim(1, 2).to(value)
    return value * F.interpolate(mask[:, None].to(value.device, torch.float32), value.shape[-2:], mode="area").to(value)
