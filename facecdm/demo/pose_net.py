"""A pose ControlNet as small as a LoRA: the U-Net's own encoder, low-rank changes, a hint block, zero convolutions.

The exported file is a "control-LoRA", which ComfyUI's own ControlNet loader reads. At sampling time core builds the
ControlNet from the sampled U-Net and adds these weights (comfy/controlnet.py, ControlLora).
"""

import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadFile, MissingModel
from ..tensor_file import check_weights, read_tensors
from .sizes import DemoSizes
from .weights import LICENCE

FORMAT = "facecdm-demo-pose/1"
DATA = ("FaceWorld: synthetic portraits rendered from CC0 MakeHuman data, and key points that InsightFace's detectors "
        "found in them.")  # fmt: skip
RANK = 32
MARK = "lora_controlnet"  # core recognises the file by a tensor of this name


class PoseNet(nn.Module):
    """Pose ControlNet. Only the trained parts are parameters; the copied encoder is frozen and not in the state.

    A resumed run therefore uses the encoder of the current U-Net.
    """

    def __init__(self, unet: nn.Module, rank: int = RANK):
        super().__init__()
        from .unet import controlnet_of

        control = controlnet_of(unet)
        self._control = (control,)  # the tuple keeps it from being a submodule
        control.requires_grad_(False)
        self.hint = control.controlnet_cond_embedding.requires_grad_(True)
        self.zero = control.controlnet_down_blocks.requires_grad_(True)
        self.middle = control.controlnet_mid_block.requires_grad_(True)
        self.low_rank = nn.ModuleDict()
        for name, module in control.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and not name.startswith("controlnet_"):
                change = LowRank(module, rank)
                self.low_rank[name.replace(".", "/")] = change
                module.register_forward_hook(change.add)
        self.to(next(unet.parameters()).device)

    @torch.no_grad()
    def scale_hint(self, hints: Tensor) -> "PoseNet":
        """Scale the hint block so that each layer's output has unit deviation over `hints` [B, 3, H, W].

        The encoder's own input has unit deviation, too. With default weights and thin lines on black, the hint block's
        output has a deviation of only 0.003, and hundreds of steps would be spent on raising it (Mishkin and Matas
        2016, "All you need is a good init").
        """
        layers = (self.hint.conv_in, *self.hint.blocks, self.hint.conv_out)
        nn.init.kaiming_normal_(self.hint.conv_out.weight)  # diffusers starts it at zero
        for layer in layers:
            nn.init.zeros_(layer.bias)
            output = layer(hints)
            scale = output.std().clamp(min=1e-6)
            layer.weight.div_(scale)
            hints = F.silu(output / scale)
        return self

    @property
    def encoder(self) -> nn.Module:
        """diffusers' ControlNet; the low-rank changes are added to its layers."""
        return self._control[0]

    def forward(
        self, noisy: Tensor, level: Tensor, context: Tensor, hint: Tensor, return_dict: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """Residuals of the skip connections and of the middle.

        noisy        latents [B, C, h, w]
        hint         picture [B, 3, H, W] in 0 … 1; resized to 8h × 8w if it is larger, as in ComfyUI
        return_dict  is ignored; diffusers' ControlNets have it
        """
        size = tuple(8 * side for side in noisy.shape[-2:])
        if hint.shape[-2:] != size:
            hint = F.interpolate(hint, size, mode="nearest-exact")
        return self._control[0](noisy, level, context, hint, return_dict=False)


class LowRank(nn.Module):
    """up · down, to be added to a weight; `down` [rank, inputs (· kernel)], `up` [outputs, rank], initially zero."""

    def __init__(self, module: nn.Conv2d | nn.Linear, rank: int):
        super().__init__()
        outputs, *inputs = module.weight.shape
        self.down = nn.Parameter(torch.empty(min(rank, outputs), *inputs))
        self.up = nn.Parameter(torch.zeros(outputs, len(self.down)))
        nn.init.normal_(self.down, std=self.down[0].numel() ** -0.5)

    def add(self, module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if isinstance(module, nn.Linear):
            return output + F.linear(F.linear(arguments[0], self.down), self.up)
        narrow = F.conv2d(arguments[0], self.down, stride=module.stride, padding=module.padding)
        return output + F.conv2d(narrow, self.up[:, :, None, None])


def control_lora(state: dict[str, Tensor], blocks: tuple[int, ...]) -> dict[str, Tensor]:
    """Convert a PoseNet's state to core's control-LoRA, fp16. `blocks`: residual blocks in each level of the U-Net."""
    out = {MARK: torch.zeros(())}
    for name, tensor in state.items():
        part, rest = name.split(".", 1)
        if part == "low_rank":
            module, kind = rest.rsplit(".", 1)
            out[f"{core_name(module.replace('/', '.'), blocks)}.{kind}"] = tensor
        else:
            out[_trained_name(part, rest)] = tensor
    return {name: tensor.half().contiguous() for name, tensor in out.items()}


def write(state: dict[str, Tensor], sizes: DemoSizes, step: int, path: Path) -> None:
    """Write the weights file atomically."""
    from safetensors.torch import save_file

    metadata = {"format": FORMAT, "sizes": sizes.to_json(), "steps": str(step), "licence": LICENCE, "data": DATA}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(control_lora(state, (1,) * len(sizes.channels)), partial, metadata)
    partial.chmod(0o644)  # safetensors makes it readable by the owner only
    partial.replace(path)


def read(path: Path, unet: nn.Module) -> PoseNet:
    """Load a weights file for diffusers' `unet`, frozen. Raises MissingModel, BadFile."""
    if not os.path.isfile(path):  # also for a name that is too long
        raise MissingModel(f"no pose ControlNet at {path}; make it with `python -m facecdm demo train-pose`")
    tensors = read_tensors(path)[0]
    for name, tensor in tensors.items():
        check_weights(name, tensor, path)
    try:
        net = PoseNet(unet, max(len(value) for name, value in tensors.items() if name.endswith(".down")))
        state, blocks = net.state_dict(), (1,) * len(unet.config.block_out_channels)
        stored = {name: _stored_name(name, value, blocks) for name, value in state.items()}
        net.load_state_dict({name: tensors[stored[name]].float() for name in state})
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise BadFile(f"{path} is not this U-Net's pose ControlNet, or is damaged ({error})") from error
    return net.requires_grad_(False).eval()


def _stored_name(name: str, value: Tensor, blocks: tuple[int, ...]) -> str:
    return next(stored for stored in control_lora({name: value}, blocks) if stored != MARK)


def _trained_name(part: str, rest: str) -> str:
    if part == "middle":
        return f"middle_block_out.0.{rest}"
    if part == "zero":
        number, kind = rest.split(".")
        return f"zero_convs.{number}.0.{kind}"
    *module, kind = rest.split(".")  # conv_in, the blocks, conv_out, with an activation after each
    number = {"conv_in": 0, "conv_out": 7}.get(module[0], 0) or (int(module[1]) + 1 if module[0] == "blocks" else 0)
    return f"input_hint_block.{2 * number}.{kind}"


_RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
           "conv_shortcut": "skip_connection"}  # fmt: skip


def core_name(name: str, blocks: tuple[int, ...]) -> str:
    """Convert a module name of diffusers' U-Net encoder to ComfyUI's (CompVis') layout."""
    fixed = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
             "time_embedding.linear_2": "time_embed.2"}  # fmt: skip
    if name in fixed:
        return fixed[name]
    where, *rest = name.split(".")
    if where == "mid_block":
        kind, number, *inner = rest
        block = "middle_block.1" if kind == "attentions" else f"middle_block.{2 * int(number)}"
    else:
        level, kind, number, *inner = rest
        first = 1 + sum(count + 1 for count in blocks[: int(level)])  # each level ends with its downsampler
        if kind == "downsamplers":
            return f"input_blocks.{first + blocks[int(level)]}.0.op"
        block = f"input_blocks.{first + int(number)}.{int(kind == 'attentions')}"
    if kind == "resnets":
        inner = [_RESNET[inner[0]], *inner[1:]]
    return ".".join([block, *inner])
