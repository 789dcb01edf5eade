"""What the benchmarks share. Import it first: it makes facecdm importable from the clone."""

import gc
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))


def open_comfyui(folder: Path, cpu: bool | None = None) -> None:
    """Make `comfy` importable; cpu None: use a GPU where there is one. Call it before any other import of comfy."""
    import torch

    sys.path.insert(0, str(folder.absolute()))
    sys.argv = sys.argv[:1]  # ComfyUI parses the command line
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available() if cpu is None else cpu


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


def make_model(base: str, device, dtype):
    """A MODEL of random weights."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    config = getattr(comfy.supported_models, base.replace(".", ""))(CONFIGS[base] | {"dtype": dtype})
    kind = comfy.model_base.SDXL if base == "SDXL" else comfy.model_base.BaseModel
    model = kind(config, device=device)
    with torch.no_grad():
        for value in model.diffusion_model.parameters():
            value.normal_(0, 0.02)
    return comfy.model_patcher.ModelPatcher(model, device, device)


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
