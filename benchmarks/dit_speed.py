"""The cost of an adapter on Flux.1: seconds and peak memory per step, at its widths.

    python benchmarks/dit_speed.py --comfyui DIR [--double 2 --single 4] [--side 1024] [--steps 2] [--rounds 2]
        [--pulid-flux-ll DIR]

Random weights in bf16, 512 text tokens, CFG 1, through ComfyUI's own sampling: the plain model, PuLID-FLUX, and
InstantX' IP-Adapter (ComfyUI 0.29 or newer). With a clone of lldacing's ComfyUI_PuLID_Flux_ll, the same PuLID-FLUX file
is measured in that pack, too, and its prediction is compared. Compare the ratios: seconds depend on the machine.
"""

import argparse
import math
from pathlib import Path

from shared import FLUX, TABLE, clone_module, known, load, open_comfyui, step_seconds, take_turns

SIGMA, TEXT = 0.7, 512  # noise level, and number of text tokens
FULL = FLUX["depth"], FLUX["depth_single_blocks"]


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
    with torch.no_grad():
        for value in model.diffusion_model.parameters():
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

    def hooked(executor, *args, **kwargs):
        """In place of the pack's own wrapper, which does not know all arguments of ComfyUI 0.3.75."""
        nodes.set_hook(dit, nodes.pulid_forward_orig)
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

    state = state_of(instantx(sizes, blocks), device)
    return apply_person(model, Person(load(state), None, Features(torch.randn(1, sizes.so400m))))


def benchmark(double: int, single: int, side: int, steps: int, rounds: int, pulid_flux_ll: Path | None = None, **given):
    """Rows of TABLE, then sentences. `given`: other sizes of the base model (`base`) and the adapters (`adapters`)."""
    import comfy.model_management
    import torch
    from published_flux import FluxSizes, pulid_flux

    from facecdm.errors import UnsupportedModel

    device, sizes = comfy.model_management.get_torch_device(), given.get("adapters") or FluxSizes()
    plain, blocks = make_flux(double, single, device, **given.get("base", {})), cells_of(double, single)
    state = state_of(pulid_flux(sizes, len(blocks)), device)
    vector, states = torch.randn(1, 1280), tuple(torch.randn(1, 577, sizes.states) for _ in range(5))
    variants, notes = {"plain": plain, "PuLID-FLUX": with_pulid(plain, state, vector, states)}, []
    try:
        variants["InstantX"] = with_instantx(plain, sizes, double + single, device)
    except UnsupportedModel as error:
        notes.append(f"InstantX was not measured: {error}")
    theirs = "PuLID-FLUX by ComfyUI_PuLID_Flux_ll"
    if pulid_flux_ll:
        variants[theirs] = with_pulid_flux_ll(pulid_flux_ll, plain, state, vector, states, blocks)
    params, x = plain.model.diffusion_model.params, torch.randn(1, 16, side // 8, side // 8)
    options = {"pooled_output": torch.randn(1, params.vec_in_dim), "guidance": 3.5}
    prompts, predictions = [[[torch.randn(1, TEXT, params.context_in_dim), options]]] * 2, {}

    def measure(model):
        seconds, peak, predictions[model] = step_seconds(model, x, prompts, 1.0, SIGMA, steps, device)
        return seconds, peak

    rows = take_turns(f"Flux.1, {double} + {single} blocks, {side} px", variants, measure, rounds)
    if theirs in variants:
        ours, other, none = (predictions[variants[name]].float() for name in ("PuLID-FLUX", theirs, "plain"))
        off = (ours - other).abs().max() / (other - none).abs().max()
        notes.append(f"ComfyUI_PuLID_Flux_ll changes the prediction as FaceCDM does, but for {off:.1%}")
    return rows + notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--double", type=int, default=2, help=f"double blocks; Flux.1 has {FULL[0]}")
    parser.add_argument("--single", type=int, default=4, help=f"single blocks; Flux.1 has {FULL[1]}")
    parser.add_argument("--side", type=int, default=1024, help="side of the picture in pixels")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pulid-flux-ll", type=Path, help="a clone of ComfyUI_PuLID_Flux_ll")
    arguments = parser.parse_args()
    open_comfyui(arguments.comfyui)
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True
    sizes = (arguments.double, arguments.single, arguments.side, arguments.steps, arguments.rounds)
    print("\n".join([TABLE, *benchmark(*sizes, arguments.pulid_flux_ll)]), flush=True)


if __name__ == "__main__":
    main()
