"""What each loss adds to a training step on the demo model: seconds and memory.

    python benchmarks/losses.py --comfyui DIR --recogniser w600k_mbf.onnx [--batch 4] [--latent 32] [--rounds 5]

Every step is a forward and a backward pass of a batch in which every row counts: the most expensive case. The variants
take turns, so that other load affects them equally; on a CPU the seconds are CPU time of the process. Memory is what
the forward pass keeps for the backward pass, weights included.
"""

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from statistics import median

from shared import open_comfyui


class Kept:
    """Bytes that autograd keeps within a `with` block; each storage counts once."""

    def __enter__(self):
        import torch

        self.storages = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda value: value)
        self._hooks.__enter__()
        return self

    def _keep(self, value):
        storage = value.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        return value

    def __exit__(self, *exception):
        self._hooks.__exit__(*exception)

    @property
    def bytes(self) -> int:
        return sum(self.storages.values())


def make_batch(denoiser, batch: int, latent: int, t: int):
    """(rows, references, empty prompt, random numbers) of random pictures with a central face, all at timestep `t`.

    The references hold the face's location.
    """
    import torch

    from facecdm.adapter.location import FaceLocation
    from facecdm.adapter.reference_batch import ReferenceBatch
    from facecdm.faces.align import TEMPLATE
    from facecdm.training.randomness import RandomNumbers
    from facecdm.training.rows import Prompt, Rows

    channels = denoiser.model.model.latent_format.latent_channels
    points = torch.from_numpy(TEMPLATE).float() / 112 * 0.5 + 0.25
    states = torch.randn(batch, 77, denoiser.layer_map.context)
    rows = Rows(
        torch.randn(batch, channels, latent, latent),
        Prompt(states),
        torch.randn(batch, 512),
        None,
        torch.tensor([[0.3, 0.3, 0.7, 0.75]]).repeat(batch, 1),
        points.repeat(batch, 1, 1),
        None,
        torch.arange(batch),
    )
    on = torch.ones(batch, dtype=torch.bool)
    random_numbers = RandomNumbers(
        torch.full((batch,), t),
        torch.randn_like(rows.latents),
        on,
        on,
        on,
        ~on,
        ~on,
        torch.zeros(batch),
        on,
        ~on,
        torch.zeros(batch, 2),
        ~on,
    )
    where = FaceLocation(rows.keypoints.to(denoiser.device), (latent, latent), side=2)
    return (
        rows,
        ReferenceBatch(torch.nn.functional.normalize(rows.face, dim=1), None, on, on, where),
        Prompt(states[:1]),
        random_numbers,
    )


def make_variants(recogniser: Path, device) -> dict:
    """Name → (loss that is added to the diffusion loss, timestep at which its rows count)."""
    import torch

    from facecdm.training import losses

    arcface = losses.ArcFace(recogniser).to(device)
    bank = losses.NegativeBank(torch.randn(4096, 512, device=device), torch.arange(4096, device=device) + 10_000)
    linear = losses.LinearRecogniser(torch.randn(192, 48, 1, 1) / 48**0.5, torch.randn(512, 3 * 28**2) / 500).to(device)
    return {
        "diffusion alone": (None, 100),
        "bottleneck": (losses.BottleneckLoss(), 100),
        "localisation": (losses.LocalisationLoss(), 100),
        "identity": (losses.IdentityLoss(arcface), 100),
        "identity, 4,096 others": (losses.IdentityLoss(arcface, bank=bank), 100),
        "identity, 4 steps, 1 with gradients": (losses.FewStepIdentityLoss(arcface), 600),
        "identity, 4 steps, 2 with gradients": (losses.FewStepIdentityLoss(arcface, learnt=2), 600),
        "identity, 4 steps from noise, guided, 4 with gradients": (
            losses.FewStepIdentityLoss(arcface, learnt=4, guidance=4.0, begin="noise"),
            600,
        ),
        "linear identity": (losses.LinearIdentityLoss(linear), 600),
        "alignment": (losses.AlignmentLoss(), 100),
        "background": (losses.BackgroundLoss(), 100),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--recogniser", type=Path, required=True, help="the .onnx file of a face pack")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--latent", type=int, default=32, help="side of the latents; 32 is 256 px")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    open_comfyui(arguments.comfyui)
    import torch

    from facecdm.adapter.config import AdapterConfig
    from facecdm.adapter.model import TripletAdapter
    from facecdm.hosts.comfy.demo.model import load
    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser
    from facecdm.training import losses
    from facecdm.training.learner import Learner
    from facecdm.training.lora import Lora
    from facecdm.training.rows import moved
    from facecdm.training.stages import Stage
    from facecdm.training.step import Term, forward

    demo = load()
    denoiser = ComfyDenoiser(demo.model, demo.vae)
    adapter = TripletAdapter(AdapterConfig(denoiser.layer_map)).init_from_text(denoiser.text_keys_values())
    torch.nn.init.ones_(adapter.streams["face"].gate.knots)
    stage = Stage(train=("projectors", "keys_values", "gates", "interplay", "lora"))
    learner = Learner(adapter, Lora(), denoiser.linears(), stage, denoiser.device)
    variants = make_variants(arguments.recogniser, denoiser.device)
    on_gpu = denoiser.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time

    def step(loss, t: int, kept: Kept | nullcontext) -> float:
        rows, reference_batch, empty, random_numbers = (
            moved(part, denoiser.device) for part in make_batch(denoiser, arguments.batch, arguments.latent, t)
        )
        terms = [Term("diffusion", losses.DiffusionLoss())]
        if loss is not None:
            terms.append(Term("added", loss, needs=loss.needs))
        start = clock()
        with kept:
            total, _ = forward(denoiser, learner, terms, rows, reference_batch, empty, random_numbers, 1)
        total.backward()
        if on_gpu:
            torch.cuda.synchronize()
        return clock() - start

    took, memory = {name: [] for name in variants}, {name: Kept() for name in variants}
    with learner.lora.on(denoiser.linears()):
        for name, (loss, t) in variants.items():
            step(loss, t, memory[name])  # also a warm-up for the rounds
        for _ in range(arguments.rounds):
            for name, (loss, t) in variants.items():
                took[name].append(step(loss, t, nullcontext()))
    middle = {name: median(values) for name, values in took.items()}
    base = middle["diffusion alone"]
    print("| diffusion and | seconds a step | added | kept MiB |\n|---|---|---|---|")
    for name, seconds in middle.items():
        print(f"| {name} | {seconds:.3f} | {100 * (seconds / base - 1):+.0f} % | {memory[name].bytes / 2**20:.0f} |")


if __name__ == "__main__":
    main()
