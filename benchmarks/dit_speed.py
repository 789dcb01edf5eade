"""The cost of an adapter on Flux.1, at its widths: seconds and work that it adds to a step.

    python benchmarks/dit_speed.py --comfyui DIR [--double 2 --single 4] [--side 1024] [--rounds 10] [--whole]
        [--pulid-flux-ll DIR]

Random weights in bf16, 512 text tokens, CFG 1, through ComfyUI's own sampling: PuLID-FLUX, FaceCDM's own adapter with
both streams, and InstantX's IP-Adapter (ComfyUI 0.29 or newer). With a clone of lldacing's ComfyUI_PuLID_Flux_ll, the
same PuLID-FLUX file is measured in that pack, too, and its prediction is compared. A step of the plain model is timed
whole, what adapters add to it without the model's blocks (added_work.py). --whole also times whole steps with each
adapter, and their memory.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from statistics import median

from added_work import TABLE as ADDED
from added_work import added_rows, without_blocks
from shared import FLUX, TABLE, clone_module, in_turns, known, load, open_comfyui, step_seconds, table_rows

SIGMA, TEXT = 0.7, 512  # noise level, and number of text tokens
FULL = FLUX["depth"], FLUX["depth_single_blocks"]
VISION = 1280  # features of ViT-H's states
OWN = "FaceCDM's own"
OURS, THEIRS = "PuLID-FLUX", "PuLID-FLUX by ComfyUI_PuLID_Flux_ll"


def make_flux(double: int, single: int, device, **sizes):
    """A MODEL of Flux.1-dev's kind, in bf16."""
    import comfy.model_patcher
    import comfy.supported_models
    import flux
    import torch

    config = flux.config("flux", **flux.NARROW | dict(depth=double, depth_single_blocks=single) | sizes)
    found = comfy.supported_models.Flux(config)
    found.set_inference_dtype(torch.bfloat16, None)
    model = found.get_model({}, device=device).eval().requires_grad_(False)
    dit = model.diffusion_model
    if device.type == "cpu":  # to spare memory, blocks of a kind share their weights
        for blocks in (dit.double_blocks, dit.single_blocks):
            for index in range(1, len(blocks)):
                blocks[index] = blocks[0]
    with torch.no_grad():
        for value in dit.parameters():
            value.normal_(0, 0.02)
    return known(comfy.model_patcher.ModelPatcher(model, device, device))


def state_of(shapes: dict, device) -> dict:
    """A file's tensors in bf16."""
    import torch

    def scale(shape) -> float:
        return 0.5 * shape[-1] ** -0.5 if len(shape) > 1 else 0.1

    made = {
        key: torch.randn(shape, device=device, dtype=torch.bfloat16) * scale(shape) for key, shape in shapes.items()
    }
    return {key: value.cpu() for key, value in made.items()}


def cells_of(double: int, single: int) -> list[tuple[str, int]]:
    """Blocks with a cell of PuLID-FLUX, as ComfyUI's block replacement names them."""
    pairs = (("double_block", range(0, double, 2)), ("single_block", range(0, single, 4)))
    return [(kind, number) for kind, numbers in pairs for number in numbers]


def with_pulid(model, state: dict, vector, states):
    from facecdm.adapter.features import Features
    from facecdm.adapter.person import Person
    from facecdm.hosts.comfy.sampling.apply import apply_person

    return apply_person(model, Person(load(state), Features(vector, states)))


def with_pulid_flux_ll(folder: Path, model, state: dict, vector, states, blocks: list):
    """What its Apply PuLID Flux does after the face is encoded."""
    import comfy.model_patcher
    import torch
    from comfy.patcher_extension import WrappersMP

    stand_ins = {  # modules for finding and encoding the face, which need further packages
        "face_restoration_helper": ("FaceRestoreHelper", "get_face_by_index", "draw_on"),
        "eva_clip": (),
        "eva_clip.constants": ("OPENAI_DATASET_MEAN", "OPENAI_DATASET_STD"),
    }
    nodes = clone_module(folder, "pulidflux", stand_ins)
    hook = clone_module(folder, "PulidFluxHook")
    with torch.device("meta"):
        pulid = nodes.PulidFluxModel()
    pulid.pulid_ca = pulid.pulid_ca[: len(blocks)]
    pulid.load_state_dict(state, assign=True)
    with torch.no_grad():
        tokens = pulid.get_embeds(vector.to(torch.bfloat16), [one.to(torch.bfloat16) for one in states])
    device = model.load_device
    patcher, patched = comfy.model_patcher.ModelPatcher(pulid, device, device), model.clone()
    pulid.to(device)
    shown = dict(pulid_model=patcher, weight=1.0, embedding=tokens.to(device), mask=None)
    shown |= dict(sigma_start=math.inf, sigma_end=0.0)
    for number, key in enumerate(blocks):
        hook.set_model_dit_patch_replace(patched, {**shown, "ca_idx": number}, key)
    last = max(key for key in blocks if key[0] == "double_block")  # it hands the text to the single blocks
    own = hook.LastDitDoubleBlockReplace(hook.pulid_patch, **shown, ca_idx=blocks.index(last))
    patched.model_options["transformer_options"]["patches_replace"]["dit"][last] = own
    patched.set_additional_models("pulid_flux_model_patcher", [patcher])
    nodes.add_model_patch_option(patched, nodes.PatchKeys.pulid_patch_key_attrs)
    dit = model.model.diffusion_model

    def forward(*args, timestep_zero_index=None, **kwargs):  # an argument of ComfyUI 0.33 that the pack does not know
        return nodes.pulid_forward_orig(*args, **kwargs)

    def hooked(executor, *args, **kwargs):
        """In place of the pack's own wrapper, which does not know all arguments of ComfyUI 0.3.75 or newer."""
        nodes.set_hook(dit, forward)
        try:
            return executor(*args, **kwargs)
        finally:
            nodes.clean_hook(dit)

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, nodes.wrappers_name, hooked)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, nodes.wrappers_name, nodes.pulid_apply_model_wrappers)
    return patched


def with_instantx(model, sizes, blocks: int, device):
    import torch
    from published_flux import instantx

    from facecdm.adapter.features import Features
    from facecdm.adapter.person import Person
    from facecdm.hosts.comfy.sampling.apply import apply_person

    sizes = replace(sizes, so400m=36)  # only the tokens depend on it, and its projector would have 2.4 GB
    state = state_of(instantx(sizes, blocks), device)
    return apply_person(model, Person(load(state), None, Features(torch.randn(1, sizes.so400m))))


def with_own(model, located: bool):
    """FaceCDM's own adapter at the sizes of a new one for Flux.1, with open gates.

    located  with 1,024 spatial tokens, conditioned on face location
    """
    import torch

    from facecdm.adapter.config import MOST_CELLS, AdapterConfig, content_of
    from facecdm.adapter.model import TripletAdapter
    from facecdm.adapter.person import Person
    from facecdm.faces.align import TEMPLATE
    from facecdm.faces.location import SIZE
    from facecdm.hosts.comfy.base_model import layer_map
    from facecdm.hosts.comfy.sampling.apply import apply_person

    tokens = 1024 if located else AdapterConfig.face_tokens
    sizes = dict(face_tokens=tokens, face_content=content_of(tokens), spatial_tokens=located, image_width=VISION)
    config = AdapterConfig.new(layer_map(model), **sizes, cell_every=math.ceil(sum(FULL) / MOST_CELLS))
    adapter = TripletAdapter(config, torch.bfloat16).requires_grad_(False)
    for stream in adapter.streams.values():
        stream.gate.knots.fill_(0.5)
    keypoints = torch.tensor(TEMPLATE, dtype=torch.float32)[None] / SIZE if located else None
    face, image = torch.nn.functional.normalize(torch.randn(1, 512), dim=1), torch.randn(1, 257, VISION)
    return apply_person(model, Person(adapter, face, image, keypoints=keypoints))


def make_variants(double: int, single: int, pulid_flux_ll: Path | None, base: dict, adapters) -> tuple[dict, list[str]]:
    """MODELs by name, the plain one first, and sentences about what is missing.

    base      other sizes of the base model
    adapters  FluxSizes
    """
    import comfy.model_management
    import torch
    from published_flux import pulid_flux

    from facecdm.errors import UnsupportedModel

    device = comfy.model_management.get_torch_device()
    plain, blocks = make_flux(double, single, device, **base), cells_of(double, single)
    state = state_of(pulid_flux(adapters, len(blocks)), device)
    vector, states = torch.randn(1, 1280), tuple(torch.randn(1, 577, adapters.states) for _ in range(5))
    variants, notes = {"plain": plain, OURS: with_pulid(plain, state, vector, states)}, []
    try:
        variants["InstantX"] = with_instantx(plain, adapters, double + single, device)
    except UnsupportedModel as error:
        notes.append(f"InstantX was not measured: {error}")
    variants[OWN] = with_own(plain, False)
    variants[f"{OWN}, face location"] = with_own(plain, True)
    if pulid_flux_ll:
        variants[THEIRS] = with_pulid_flux_ll(pulid_flux_ll, plain, state, vector, states, blocks)
    return variants, notes


def benchmark(
    double: int,
    single: int,
    side: int,
    steps: int,
    rounds: int,
    pulid_flux_ll: Path | None = None,
    whole: bool = True,
    base: dict | None = None,
    adapters=None,
) -> list[str]:
    """Both tables, then sentences. `whole`: whole steps of every variant, not only of the plain model."""
    import torch
    from published_flux import FluxSizes

    variants, notes = make_variants(double, single, pulid_flux_ll, base or {}, adapters or FluxSizes())
    plain, predictions, x = variants["plain"], {}, torch.randn(1, 16, side // 8, side // 8)
    dit, device = plain.model.diffusion_model, plain.load_device
    options = {"pooled_output": torch.randn(1, dit.params.vec_in_dim), "guidance": 3.5}
    prompts = [[[torch.randn(1, TEXT, dit.params.context_in_dim), options]]] * 2

    def measure(model, counter=None):
        seconds, peak, predictions[model] = step_seconds(model, x, prompts, 1.0, SIGMA, steps, device, counter)
        return seconds, peak

    timed = variants if whole else {"plain": plain}
    seconds, memory = in_turns(timed, measure, rounds if whole else 1)
    rows = [TABLE, *table_rows(f"Flux.1, {double} + {single} blocks, {side} px", seconds, memory)]
    with without_blocks(dit, TEXT + (side // 16) ** 2):
        rows += ["", ADDED, *added_rows(variants, measure, rounds, median(seconds["plain"])), ""]
    if THEIRS in variants:
        ours, other, none = (predictions[variants[name]].float() for name in (OURS, THEIRS, "plain"))
        off = (ours - other).abs().max() / (other - none).abs().max()
        notes.append(f"ComfyUI_PuLID_Flux_ll changes the prediction as FaceCDM does, but for {off:.1%}")
    return rows + notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--double", type=int, default=2, help=f"double blocks; Flux.1 has {FULL[0]}")
    parser.add_argument("--single", type=int, default=4, help=f"single blocks; Flux.1 has {FULL[1]}")
    parser.add_argument("--side", type=int, default=1024, help="side of the picture in pixels")
    parser.add_argument("--steps", type=int, default=1, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=10, help="at least 2, for the quartiles")
    parser.add_argument("--whole", action="store_true", help="whole steps with each adapter, too")
    parser.add_argument("--pulid-flux-ll", type=Path, help="a clone of ComfyUI_PuLID_Flux_ll")
    arguments = parser.parse_args()
    open_comfyui(arguments.comfyui)
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True
    sizes = (arguments.double, arguments.single, arguments.side, arguments.steps, arguments.rounds)
    print("\n".join(benchmark(*sizes, arguments.pulid_flux_ll, arguments.whole)), flush=True)


if __name__ == "__main__":
    main()
