"""What a training step costs, in one run: ours, core's TrainLoraNode, and a plain loop with diffusers and PEFT.

    python benchmarks/training.py --comfyui DIR [--base SD1.5 SDXL] [--latent 16] [--batch 1] [--steps 5] [--rounds 3]
    python benchmarks/training.py --comfyui DIR --losses [--insightface FILE.onnx]

The first form trains the same LoRA (rank 8, every q, k, v and out of the U-Net's attentions) with a diffusion loss and
AdamW on a full-size U-Net of random weights. Each contestant has a process of its own, and they take turns. Seconds a
step: the median of all but the first two steps; on a CPU, those that the process computed. Memory: the peak over what
was there before the first step. The second form adds our losses one at a time, on the demo model.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from shared import ROOT, PeakMemory, make_model

RANK, RATE, SKIPPED = 8, 1e-4, 2


class Steps:
    """Marks the beginnings of steps; seconds from one to the next, and the peak memory of all."""

    def __init__(self, device):
        self._clock = time.perf_counter if device.type == "cuda" else time.process_time
        self._device, self._marks, self.memory = device, [], PeakMemory(device)

    def mark(self) -> None:
        import torch

        if self._device.type == "cuda":
            torch.cuda.synchronize()
        self._marks.append(self._clock())

    def result(self) -> dict:
        spans = [after - before for before, after in zip(self._marks, self._marks[1:])][SKIPPED:]
        return {"seconds": spans, "peak": self.memory.peak}


def batch(arguments, context: int, count: int = 1) -> dict:
    import torch

    torch.manual_seed(0)
    side = arguments.latent
    return {
        "latents": torch.randn(count, 4, side, side),
        "states": torch.randn(count, 77, context),
        "pooled": torch.randn(count, 1280),
        "sizes": torch.tensor([[8.0 * side, 8.0 * side, 0, 0, 8.0 * side, 8.0 * side]]).expand(count, -1),
    }


def ours(arguments, device, dtype) -> dict:
    import torch

    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser
    from facecdm.training.lora import Lora
    from facecdm.training.rows import Prompt

    model = make_model(arguments.base[0], device, dtype)
    with ComfyDenoiser(model, dtype=dtype) as denoiser:
        denoiser.checkpoint(arguments.checkpointing)
        lora = Lora.new(denoiser.linears(), RANK)
        for part in lora.parts.values():
            part.to(device)
        parameters = [value for part in lora.parts.values() for value in part.parameters()]
        optimiser = torch.optim.AdamW(parameters, RATE)
        given = {
            name: value.to(device)
            for name, value in batch(arguments, denoiser.layer_map.context, arguments.batch).items()
        }
        prompt = Prompt(given["states"], given["pooled"], given["sizes"])
        steps = Steps(device)
        with steps.memory, lora.on(denoiser.linears()):
            for _ in range(arguments.steps + SKIPPED):
                steps.mark()
                t, noise = torch.randint(0, 1000, (arguments.batch,)), torch.randn(given["latents"].shape).to(device)
                a, s = (table[t].view(-1, 1, 1, 1).to(device) for table in (denoiser.signal, denoiser.noise))
                prediction = denoiser.predict(a * given["latents"] + s * noise, t, prompt)
                torch.nn.functional.mse_loss(prediction, noise).backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            steps.mark()
    return steps.result() | {"learns": sum(value.numel() for value in parameters)}


def core(arguments, device, dtype) -> dict:
    """The node itself, kept to the layers that the others train."""
    import comfy_extras.nodes_train as train
    import torch

    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser

    model = make_model(arguments.base[0], device, dtype)
    wanted = ComfyDenoiser(model, dtype=dtype).linears()
    steps, step = Steps(device), train.TrainSampler.fwd_bwd

    def marked(*values, **named):
        steps.mark()
        return step(*values, **named)

    def chosen():  # asked once, by the node
        del model.model.named_modules
        return [(name, part) for name, part in model.model.named_modules() if name in wanted]

    train.TrainSampler.fwd_bwd, model.model.named_modules = marked, chosen
    # The node crashes on a single latent.
    given = batch(arguments, model.model.model_config.unet_config["context_dim"], max(arguments.batch, 2))
    positive = [
        [[state[None], {"pooled_output": pooled[None]}]] for state, pooled in zip(given["states"], given["pooled"])
    ]
    name = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
    with steps.memory, torch.inference_mode():
        lora = train.TrainLoraNode.execute(
            [model],
            [{"samples": one[None]} for one in given["latents"]],
            positive,
            [arguments.batch],
            [arguments.steps + SKIPPED + 1],
            [1],
            [RATE],
            [RANK],
            ["AdamW"],
            ["MSE"],
            [0],
            [name],
            ["fp32"],
            ["LoRA"],
            [arguments.checkpointing],
            ["[None]"],
        ).result[1]
    return steps.result() | {"learns": sum(value.numel() for key, value in lora.items() if "alpha" not in key)}


def plain(arguments, device, dtype) -> dict:
    import diffusers
    import torch
    from peft import LoraConfig
    from twins import FULL_SD15, SMALL_SDXL

    sizes = (
        FULL_SD15.diffusers
        if arguments.base[0] == "SD1.5"
        else SMALL_SDXL.diffusers
        | dict(
            block_out_channels=[320, 640, 1280],
            cross_attention_dim=2048,
            attention_head_dim=[5, 10, 20],
            transformer_layers_per_block=[1, 2, 10],
        )
    )
    unet = diffusers.UNet2DConditionModel(**sizes).to(device, dtype).requires_grad_(False)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    parameters = [value for value in unet.parameters() if value.requires_grad]
    for value in parameters:
        value.data = value.data.float()
    unet.train()
    if arguments.checkpointing:
        unet.enable_gradient_checkpointing()
    optimiser = torch.optim.AdamW(parameters, RATE)
    signal = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    given = {
        name: value.to(device, dtype)
        for name, value in batch(arguments, sizes["cross_attention_dim"], arguments.batch).items()
    }
    added = {"text_embeds": given["pooled"], "time_ids": given["sizes"]} if arguments.base[0] == "SDXL" else None
    steps = Steps(device)
    with steps.memory:
        for _ in range(arguments.steps + SKIPPED):
            steps.mark()
            t, noise = torch.randint(0, 1000, (arguments.batch,)).to(device), torch.randn_like(given["latents"])
            noisy = signal.add_noise(given["latents"], noise, t)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                prediction = unet(noisy, t, given["states"], added_cond_kwargs=added).sample
            torch.nn.functional.mse_loss(prediction.float(), noise.float()).backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        steps.mark()
    return steps.result() | {"learns": sum(value.numel() for value in parameters)}


CONTESTANTS = {"ours": ours, "core's TrainLoraNode": core, "diffusers + PEFT": plain}


def child(arguments) -> None:
    sys.path[:0] = [str(ROOT / "tests" / "support"), str(arguments.comfyui)]
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    print("RESULT " + json.dumps(CONTESTANTS[arguments.child](arguments, device, dtype)))


def compare(arguments) -> None:
    """Every contestant, without and with gradient checkpointing, in turn."""
    cases = [(base, name, again) for base in arguments.base for again in (False, True) for name in CONTESTANTS]
    found: dict[tuple, list[dict]] = {case: [] for case in cases}
    for _ in range(arguments.rounds):
        for base, name, again in cases:
            command = [
                sys.executable,
                __file__,
                "--comfyui",
                str(arguments.comfyui),
                "--base",
                base,
                "--child",
                name,
                *(["--checkpointing"] if again else []),
                *(f"--{key}={getattr(arguments, key)}" for key in ("latent", "batch", "steps")),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            found[base, name, again].append(json.loads(lines[0].removeprefix("RESULT ")))
    print(
        f"| U-Net, {8 * arguments.latent} px, batch {arguments.batch} | checkpointing | | seconds a step | ratio | "
        "peak MiB | ratio |\n|---|---|---|---|---|---|---|"
    )
    for (base, name, again), results in found.items():
        first = found[base, "ours", again]
        seconds, peak = _seconds(results), median(one["peak"] for one in results) / 2**20
        print(
            f"| {base} | {'on' if again else 'off'} | {name} ({results[0]['learns'] / 1e6:.2f} M) | {seconds:.3f} | "
            f"{seconds / _seconds(first):.2f} | {peak:.0f} | "
            f"{peak / (median(one['peak'] for one in first) / 2**20):.2f} |",
            flush=True,
        )


def _seconds(results: list[dict]) -> float:
    return median(span for one in results for span in one["seconds"])


def random_people(denoiser, sizes):
    """The tests' data set of random numbers, with the sizes of the demo model."""
    import torch
    from lab import TinySource

    from facecdm.training.rows import Prompt

    data, channels, side = TinySource(), sizes.latent_channels // sizes.shuffle**2, sizes.image_size // 8
    data.faces = torch.randn(len(data), 512)
    data.states = torch.randn(len(data), 37, sizes.clip.vision_config()["hidden_size"])
    data.texts = torch.randn(len(data), 77, denoiser.layer_map.context)
    data.latents = list(torch.randn(len(data), channels, side, side))
    data.buckets = [list(range(len(data)))]
    data.empty_prompt = Prompt(torch.zeros(1, 77, denoiser.layer_map.context))
    return data


def losses(arguments) -> None:
    """The trainer itself on the demo model, each loss alone beside the diffusion loss, on every step."""
    sys.path.insert(0, str(arguments.comfyui))
    import tempfile

    import comfy.cli_args
    import torch

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    from facecdm.adapter.config import AdapterConfig
    from facecdm.adapter.model import TripletAdapter
    from facecdm.demo.weights import read
    from facecdm.hosts.comfy.demo.model import build_model, build_vae
    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser
    from facecdm.training.lora import Lora
    from facecdm.training.losses import LossInputs
    from facecdm.training.stages import Stage
    from facecdm.training.terms import terms_of
    from facecdm.training.trainer import Trainer

    weights = read()
    denoiser = ComfyDenoiser(build_model(weights), build_vae(weights))
    data = random_people(denoiser, weights.sizes)
    adapter = TripletAdapter(AdapterConfig(denoiser.layer_map, image_width=data.states.shape[-1]))
    adapter.init_from_text(denoiser.text_keys_values()).requires_grad_(False)
    usual = Stage(
        steps=arguments.steps + SKIPPED,
        batch=4,
        bottleneck=0,
        drop_all=0,
        drop_face=0,
        warmup=0,
        save_every=10**6,
        validate_every=10**6,
        identity_below=1000,
    )
    added = {
        "diffusion alone": {},
        "+ LoRA of the U-Net": {"train": (*usual.train, "lora")},
        "+ gradient checkpointing": {"checkpointing": True},
        "+ bottleneck": {"bottleneck": 0.05},
        "+ localisation": {"localisation": 0.001},
        "+ alignment": {"alignment": 0.6},
        "+ background": {"background": 0.1},
    }
    if arguments.insightface:
        added |= {
            "+ identity": {"identity": 0.1},
            "+ identity after 2 steps": {"identity": 0.1, "few_steps": 2, "identity_below": 0},
        }
    seconds: dict[str, list[float]] = {name: [] for name in added}
    peaks: dict[str, list[int]] = {name: [] for name in added}
    for _ in range(arguments.rounds):
        for name, values in added.items():
            stage = usual.with_settings(**values)
            terms = terms_of(stage, LossInputs(data, denoiser, adapter, arguments.insightface))
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer(denoiser, adapter, Lora(), data, stage, terms, Path(folder))
                steps = Steps(denoiser.device)
                with steps.memory:
                    steps.mark()
                    trainer.run(lambda _, steps=steps: steps.mark())
            found = steps.result()
            seconds[name] += found["seconds"]
            peaks[name].append(found["peak"])
    first = median(seconds["diffusion alone"])
    print("| demo model, batch 4 | seconds a step | ratio | peak MiB on a GPU |\n|---|---|---|---|")
    for name in added:  # a CPU's process keeps what it once had, so that its peaks say nothing
        peak = f"{median(peaks[name]) / 2**20:.0f}" if denoiser.device.type == "cuda" else "–"
        print(f"| {name} | {median(seconds[name]):.3f} | {median(seconds[name]) / first:.2f} | {peak} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--base", nargs="+", choices=["SD1.5", "SDXL"], default=["SD1.5"])
    parser.add_argument("--latent", type=int, default=16, help="side of the latents; pixels are eight times as many")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--losses", action="store_true", help="itemise our losses on the demo model")
    parser.add_argument("--insightface", type=Path, help="a recogniser's ONNX file, for the identity loss")
    parser.add_argument("--child", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    (child if arguments.child else losses if arguments.losses else compare)(arguments)


if __name__ == "__main__":
    main()
