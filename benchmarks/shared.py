"""What the benchmarks share. Import it first: it makes facecdm and the tests' support importable from the clone."""

import argparse
import contextlib
import gc
import importlib
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), str(ROOT / "tests" / "support")]


def open_comfyui(folder: Path, cpu: bool | None = None) -> None:
    """Make `comfy` importable; cpu None: use a GPU where there is one. Call it before any other import of comfy."""
    import torch

    sys.path.insert(0, str(folder.absolute()))
    sys.argv = sys.argv[:1]  # ComfyUI parses the command line
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available() if cpu is None else cpu


def add_sampling(parser: argparse.ArgumentParser) -> None:
    """Add the options of sampling with the demo model; the defaults are those of the shipped workflows."""
    from facecdm.bases.demo import ATTENTION_GUIDANCE

    add = parser.add_argument
    add("--sampler", default="euler")
    add("--scheduler", default="karras")
    add("--steps", type=int, default=20)
    add("--cfg", type=float, default=4.0)
    add("--attention-guidance", type=float, default=ATTENTION_GUIDANCE, help="scale; 0: none")
    add("--seed", type=int, default=0)


# Full-size U-Nets, as ComfyUI configures them.
COMMON = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    use_spatial_transformer=True,
    legacy=False,
    use_temporal_attention=False,
    use_temporal_resblock=False,
    model_channels=320,
)
CONFIGS = {
    "SD1.5": COMMON
    | dict(
        num_res_blocks=[2] * 4,
        channel_mult=[1, 2, 4, 4],
        context_dim=768,
        num_heads=8,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[1] * 9 + [0] * 3,
        use_linear_in_transformer=False,
        adm_in_channels=None,
    ),
    "SDXL": COMMON
    | dict(
        num_res_blocks=[2] * 3,
        channel_mult=[1, 2, 4],
        context_dim=2048,
        num_head_channels=64,
        transformer_depth=[0, 0, 2, 2, 10, 10],
        transformer_depth_middle=10,
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
        use_linear_in_transformer=True,
        num_classes="sequential",
        adm_in_channels=2816,
    ),
}

# Flux.1-dev, as ComfyUI configures it.
FLUX = dict(
    in_channels=16,
    out_channels=16,
    vec_in_dim=768,
    context_in_dim=4096,
    hidden_size=3072,
    mlp_ratio=4.0,
    num_heads=24,
    depth=19,
    depth_single_blocks=38,
    axes_dim=[16, 56, 56],
    theta=10_000,
    patch_size=2,
    qkv_bias=True,
    guidance_embed=True,
)


SMALL = dict(model_channels=32)  # for trying a benchmark on a CPU
TABLE = "| base | adapter | seconds a step | ratio | peak MiB |\n|---|---|---|---|---|"


def make_model(base: str, device, dtype, **sizes):
    """A MODEL of random weights."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    config = getattr(comfy.supported_models, base.replace(".", ""))(CONFIGS[base] | sizes | {"dtype": dtype})
    kind = comfy.model_base.SDXL if base == "SDXL" else comfy.model_base.BaseModel
    model = kind(config, device=device)
    with torch.no_grad():
        for value in model.diffusion_model.parameters():
            value.normal_(0, 0.02)
    return comfy.model_patcher.ModelPatcher(model, device, device)


def full_flux():
    """ComfyUI's module of Flux.1-dev in bf16, without contents."""
    from comfy.ldm.flux.model import Flux

    return _without_contents(Flux, **FLUX)


def full_chroma():
    """ComfyUI's module of Chroma."""
    from comfy.ldm.chroma.model import Chroma

    sizes = {name: FLUX[name] for name in FLUX if name not in ("vec_in_dim", "guidance_embed")}
    sizes |= dict(in_channels=64, out_channels=64)
    return _without_contents(Chroma, **sizes, in_dim=64, out_dim=3072, hidden_dim=5120, n_layers=5)


def full_sd35(base: str):
    """ComfyUI's module of SD3.5 Large or Medium; Medium's first thirteen blocks have a second attention."""
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

    from facecdm.bases import BASES

    layer_map, medium = BASES[base].layer_map, base == "SD3.5 Medium"
    block, side = layer_map.layers[0], 384 if medium else 192
    text = dict(target="torch.nn.Linear", params=dict(in_features=layer_map.context, out_features=block.width))
    return _without_contents(
        OpenAISignatureMMDITWrapper,
        in_channels=16,
        patch_size=2,
        input_size=None,
        depth=block.heads,
        num_blocks=len(layer_map.layers),
        adm_in_channels=2048,
        context_embedder_config=text,
        num_patches=side**2,
        pos_embed_max_size=side,
        pos_embed_scaling_factor=None,
        qk_norm="rms",
        x_block_self_attn_layers=list(range(13)) if medium else [],
    )


def full_qwen_image():
    """ComfyUI's module of Qwen-Image, whose sizes are the class's defaults."""
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

    return _without_contents(QwenImageTransformer2DModel)


def full_z_image():
    """ComfyUI's module of Z-Image."""
    from comfy.ldm.lumina.model import NextDiT

    sizes = dict(patch_size=2, in_channels=16, dim=3840, n_layers=30, n_heads=30, n_kv_heads=30, cap_feat_dim=2560)
    sizes |= dict(axes_dims=[32, 48, 48], axes_lens=[1536, 512, 512], rope_theta=256.0, ffn_dim_multiplier=8 / 3)
    more = dict(qk_norm=True, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32)
    return _without_contents(NextDiT, **sizes, **more)


def _without_contents(kind: type, **sizes):
    import comfy.ops
    import torch

    return kind(**sizes, dtype=torch.bfloat16, device="meta", operations=comfy.ops.disable_weight_init)


DITS = {
    "Flux.1": full_flux,
    "Chroma": full_chroma,
    "SD3.5 Large": partial(full_sd35, "SD3.5 Large"),
    "SD3.5 Medium": partial(full_sd35, "SD3.5 Medium"),
    "Qwen-Image": full_qwen_image,
    "Z-Image": full_z_image,
}


def base_of_dit(name: str):
    """The base model of one of DITS. Chroma's adapters are Flux.1's."""
    from facecdm.bases import BASES

    return BASES["Flux.1" if name == "Chroma" else name]


def dit_arguments(base: str, latent: int, tokens: int) -> tuple[tuple, dict]:
    """The arguments of a call of one of DITS, without contents: latent × latent latents, `tokens` of text."""
    import torch

    pooled_width = 2048 if base.startswith("SD3.5") else 768
    with torch.device("meta"):
        sizes = (16, latent, latent), (tokens, base_of_dit(base).text_width), (pooled_width,)
        x, text, pooled = (torch.randn(1, *size, dtype=torch.bfloat16) for size in sizes)
        time = torch.zeros(1)
    if base == "Flux.1":
        return (x, time, text), {"y": pooled, "guidance": time}
    if base == "Chroma":
        return (x, time, text, time), {}
    if base.startswith("SD3.5"):
        return (x, time, text), {"y": pooled}
    if base == "Qwen-Image":
        return (x[:, :, None], time, text), {}
    return (x, time, text), {"num_tokens": tokens}


def plain_attention(chosen, q, k, v, heads, *args, skip_reshape=False, **kwargs):
    """ComfyUI's `optimized_attention_override` that calls torch's attention."""
    from torch.nn import functional as F

    if not skip_reshape:
        q, k, v = (value.flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2) for value in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class PeakMemory:
    """Peak bytes within a `with` block: allocated by CUDA, or the increase of the process' resident memory."""

    def __init__(self, device):
        self.cuda = device.type == "cuda"

    def __enter__(self):
        import psutil
        import torch

        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return self
        process, self.peak, self._done = psutil.Process(), 0, threading.Event()
        start = process.memory_info().rss

        def watch():
            while not self._done.wait(0.005):
                self.peak = max(self.peak, process.memory_info().rss - start)

        self._thread = threading.Thread(target=watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        import torch

        if self.cuda:
            self.peak = torch.cuda.max_memory_allocated()
        else:
            self._done.set()
            self._thread.join()


def step_seconds(model, x, conditionings: list, cfg: float, sigma: float, steps: int, device, counter=None):
    """By ComfyUI's sampling: the seconds of each step after the first, peak memory in bytes, the last prediction.

    conditionings  the positive and the negative one
    counter        a context manager for the last step; then the steps run outside of inference mode
    """
    import comfy.samplers
    import torch

    # On a CPU the process' own time, which other load does not change.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds, predicted = [], []

    def sampler(denoise, noise, sigmas, extra_args=None, callback=None, disable=None):
        for step in range(steps + 1):
            with counter if counter is not None and step == steps else contextlib.nullcontext():
                started = clock()
                predicted[:] = [denoise(noise, sigmas[:1].expand(len(noise)), **extra_args)]
                if device.type == "cuda":
                    torch.cuda.synchronize()
                seconds.append(clock() - started)
        return noise

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(*conditionings)
    guider.set_cfg(cfg)
    sigmas = torch.tensor([sigma, 0.0])
    with PeakMemory(device) as memory, torch.no_grad() if counter else torch.inference_mode():
        guider.sample(x, torch.zeros_like(x), comfy.samplers.KSAMPLER(sampler), sigmas, disable_pbar=True)
    return seconds[1:], memory.peak, predicted[0]


def in_turns(variants: dict, measure: Callable, rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """The seconds of the steps of each variant, and its peak bytes.

    Variants take turns, so that other load affects all of them.
    measure  model → (seconds of its steps, peak bytes)
    """
    seconds, memory = {name: [] for name in variants}, dict.fromkeys(variants, 0)
    for _ in range(rounds):
        for name, model in variants.items():
            took, peak = measure(model)
            seconds[name] += took
            memory[name] = max(memory[name], peak)
    return seconds, memory


def table_rows(title: str, seconds: dict[str, list[float]], memory: dict[str, int]) -> list[str]:
    """Rows of TABLE from the result of `in_turns`; the first variant is the plain model."""
    middle = {name: median(values) for name, values in seconds.items()}
    plain = middle[next(iter(middle))]
    return [
        f"| {title} | {name} | {took:.3f} | {took / plain:.3f} | {memory[name] / 2**20:.0f} |"
        for name, took in middle.items()
    ]


def known(model):
    """The MODEL, whose base is now known by name, so that files for it are recognised."""
    from facecdm import bases
    from facecdm.hosts.comfy.base_model import layer_map

    found = layer_map(model)
    if all(base.layer_map != found for base in bases.BASES.values()):
        bases.BASES["random weights"] = bases.Base("random weights", found)
    return model


def load(state: dict):
    """The adapter of a published file's tensors."""
    from facecdm.formats.imported import import_adapter
    from facecdm.formats.read import canonical

    return import_adapter(canonical(state, {}, Path("a.safetensors")))


def clone_module(folder: Path, name: str, stand_ins: dict[str, tuple[str, ...]] | None = None) -> ModuleType:
    """A module of a clone of another pack, without running the pack's own `__init__.py`.

    stand_ins  modules of the pack that are not to be loaded, with the names that others import from them
    """
    package = f"clone_of_{folder.name.replace('+', '_').replace('-', '_')}"
    if package not in sys.modules:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(folder.absolute())]
    for stand_in, names in (stand_ins or {}).items():
        module = sys.modules[f"{package}.{stand_in}"] = ModuleType(stand_in)
        vars(module).update(dict.fromkeys(names))
    return importlib.import_module(f"{package}.{name}")


def lora_beside(adapter: Path) -> Path | None:
    """The LoRA that was trained with an adapter: NAME_lora.safetensors, formerly "NAME lora.safetensors"."""
    paths = (adapter.with_name(f"{adapter.stem}{joint}lora.safetensors") for joint in "_ ")
    return next((path for path in paths if path.is_file()), None)


def with_lora_beside(model, adapter: Path):
    """The MODEL with the LoRA beside `adapter`, if there is one, by core's loader."""
    import comfy.sd
    import comfy.utils

    path = lora_beside(adapter)
    if path is None:
        return model
    return comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(path), safe_load=True), 1, 0)[0]
