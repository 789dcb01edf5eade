"""Difference between ComfyUI with FaceCDM and the authors' code of adapters for Flux.1, at its widths, with few blocks.

    python benchmarks/dit_equality.py --comfyui DIR --pulid DIR --withanyone DIR --instantx DIR --infiniteyou DIR

The folders are clones of ToTheBeginning/PuLID, Doby-Xu/WithAnyone, Shakker-Labs/ComfyUI-IPAdapter-Flux and
bytedance/InfiniteYou; what is left out is not compared. Random weights, shared tensors, fp32. It prints the largest
difference of the predicted velocities as part of the largest value; 1e-4 is allowed.

PuLID and WithAnyone run with the authors' own Flux, projectors and cells. InstantX's projector and attention are the
authors'; hooks put them where the authors' blocks have them, since these do not fit a ComfyUI that InstantX's
IP-Adapter needs here (0.29). InfiniteYou's resampler is the authors'; its InfuseNet is diffusers' FluxControlNetModel,
which the authors use, too. It needs 12 GB of memory.
"""

import argparse
import gc
import importlib
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from shared import clone_module, known, load, open_comfyui

SIGMA, STRENGTH, LIMIT = 0.7, 0.8, 1e-4


def modules(folder: Path, *names: str) -> list[ModuleType]:
    """Modules of a clone. They are forgotten afterwards, since tests/support has modules of the same names."""
    tops = {name.partition(".")[0] for name in names}
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}
    sys.path.insert(0, str(folder.absolute()))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(folder.absolute()))
        for name in list(sys.modules):
            if name.partition(".")[0] in tops:
                del sys.modules[name]
        sys.modules.update(ours)


def difference(ours, theirs, plain) -> float:
    scale = theirs.abs().max()
    if (plain - theirs).abs().max() < 0.01 * scale:
        raise SystemExit("the adapter has no effect: nothing is compared")
    return float((ours - theirs).abs().max() / scale)


def authors_flux(module: ModuleType, model):
    """The authors' Flux on the tensors of a MODEL."""
    import torch

    dit = model.model.diffusion_model
    names = module.FluxParams.__dataclass_fields__
    sizes = {name: getattr(dit.params, name) for name in names} | {"in_channels": 64}
    with torch.device("meta"):
        theirs = module.Flux(module.FluxParams(**sizes))
    state = dit.state_dict()
    own = {
        name: state[name] if name in state else state[name.removesuffix("scale") + "weight"]
        for name in theirs.state_dict()
        if not name.startswith(("ipa_", "arcface_", "siglip_"))
    }
    theirs.load_state_dict(own, assign=True, strict=False)
    return theirs.eval().requires_grad_(False)


def velocity(theirs, model, x, conditioning, **more):
    """Of the authors' Flux, whose sequence is that of ComfyUI's."""
    import torch

    ((text, options),) = conditioning
    img, ids = model.model.diffusion_model.process_img(x)
    with torch.no_grad():
        out = theirs(
            img,
            ids,
            text,
            torch.zeros(1, text.shape[1], 3),
            torch.tensor([SIGMA]),
            options["pooled_output"],
            guidance=torch.tensor([options["guidance"]]),
            **more,
        )
    grid = out.reshape(1, x.shape[-2] // 2, x.shape[-1] // 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return grid.flatten(4).flatten(2, 3)


def narrow(**changes):
    import flux

    return known(flux.make_flux(**flux.NARROW | changes))


def predicted(model, x, conditioning):
    from twins import predict

    return predict(model, x, SIGMA, conditioning)


def pulid(folder: Path) -> float:
    authors, encoders = modules(folder, "flux.model", "pulid.encoders_transformer")
    import flux
    import torch
    from published_flux import FluxSizes, pulid_flux, state_of

    from facecdm.adapter.features import Features
    from facecdm.adapter.person import Person, Stream
    from facecdm.hosts.comfy.sampling.apply import apply_person

    model = narrow()
    state = state_of(pulid_flux(FluxSizes(), 2))
    theirs = authors_flux(authors, model)
    former, cells = encoders.IDFormer(), torch.nn.ModuleList(encoders.PerceiverAttentionCA() for _ in range(2))
    for module, prefix in ((former, "pulid_encoder."), (cells, "pulid_ca.")):
        module.load_state_dict(within(state, prefix))
    theirs.pulid_ca = cells
    generator = torch.Generator().manual_seed(5)
    vector = torch.randn(1, 1280, generator=generator)
    states = tuple(torch.randn(1, 577, 1024, generator=generator) for _ in range(5))
    x, prompt = flux.latents(), flux.prompt(model)
    with torch.no_grad():
        tokens = former(vector, list(states))
    wanted, plain = velocity(theirs, model, x, prompt, id=tokens, id_weight=STRENGTH), predicted(model, x, prompt)
    person = Person(load(state), Features(vector, states), settings={"face": Stream(STRENGTH)})
    return difference(predicted(apply_person(model, person), x, prompt), wanted, plain)


def within(state: dict, prefix: str) -> dict:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def withanyone(folder: Path) -> float:
    """Two people, each in a box."""
    sys.modules.setdefault("seaborn", ModuleType("seaborn"))  # for plots of attention, which are not made
    (authors,) = modules(folder, "withanyone.flux.model")
    import flux
    import torch
    from published_flux import state_of
    from published_flux import withanyone as shapes

    from facecdm.adapter.features import Features
    from facecdm.adapter.person import Person, Stream
    from facecdm.hosts.comfy.sampling.apply import apply_person

    model = narrow(depth_single_blocks=1)
    state = state_of(shapes(cells=2))
    theirs = authors_flux(authors, model)
    theirs.load_state_dict(state, assign=True, strict=False)
    generator = torch.Generator().manual_seed(7)
    embedding = torch.randn(2, 512, generator=generator) * 3
    states = torch.randn(2, 256, 768, generator=generator)
    boxes = ((0, 16, 32, 48), (48, 0, 96, 64))  # left, top, right, bottom in pixels
    x, prompt = flux.latents(), flux.prompt(model)
    given = dict(arcface_embeddings=embedding[:, None], siglip_embeddings=states[None], bbox_lists=[boxes])
    sizes = dict(img_height=8 * x.shape[-2], img_width=8 * x.shape[-1])
    wanted = velocity(theirs, model, x, prompt, **given, **sizes, id_weight=0.6, siglip_weight=0.9)
    adapter, patched = load(state), model
    for number, (left, top, right, bottom) in enumerate(boxes):
        mask = torch.zeros(8 * x.shape[-2], 8 * x.shape[-1])
        mask[top:bottom, left:right] = 1
        shown = Features(embedding[number : number + 1], states[number : number + 1])
        settings = {"face": Stream(0.6), "image": Stream(0.9)}
        patched = apply_person(patched, Person(adapter, replace(shown, states=None), shown, settings, mask=mask))
    return difference(predicted(patched, x, prompt), wanted, predicted(model, x, prompt))


def instantx(folder: Path) -> float:
    attention, projector = (clone_module(folder, name) for name in ("attention_processor", "ipadapter_flux"))
    import flux
    import torch
    from published_flux import instantx as shapes
    from published_flux import state_of

    from facecdm.adapter.features import Features
    from facecdm.adapter.person import Person, Stream
    from facecdm.hosts.comfy.sampling.apply import apply_person

    model = narrow()
    state = state_of(shapes(blocks=3))
    projection = projector.MLPProjModel(4096, 1152, 128)
    projection.load_state_dict(within(state, "image_proj."))
    layers = torch.nn.ModuleList(attention.IPAFluxAttnProcessor2_0(3072, 4096, STRENGTH, 128) for _ in range(3))
    layers.load_state_dict(within(state, "ip_adapter."))
    pooled = torch.randn(1, 1152, generator=torch.Generator().manual_seed(3))
    x, prompt = flux.latents(), flux.prompt(model)
    with torch.no_grad():
        tokens = projection(pooled)

    def added(number: int, queries):
        return layers[number](model.model.diffusion_model.num_heads, queries, tokens, None)

    wanted = flux.reference_with_attention(model, x, SIGMA, prompt, added)
    person = Person(load(state), None, Features(pooled), settings={"image": Stream(STRENGTH)})
    return difference(predicted(apply_person(model, person), x, prompt), wanted, predicted(model, x, prompt))


def infiniteyou(folder: Path) -> float:
    (authors,) = modules(folder, "pipelines.resampler")
    import flux
    import torch
    from flux_twins import diffusers_prediction, inputs, make_control_twins, make_twins, packed
    from published_flux import infiniteyou as shapes
    from published_flux import state_of

    from facecdm.adapter.features import Features
    from facecdm.hosts.comfy.control.face_control import control_with_faces

    sizes = {**flux.NARROW, "depth_single_blocks": 1}
    context = sizes.pop("context_in_dim")
    (model, transformer), (net, theirs) = make_twins(context, **sizes), make_control_twins(context, **sizes)
    known(model)
    state = state_of(shapes())
    resampler = authors.Resampler(1280, 4, 64, 20, 8, 512, 4096)
    resampler.load_state_dict(within(state, "image_proj."))
    generator = torch.Generator().manual_seed(4)
    embedding = torch.nn.functional.normalize(torch.randn(1, 512, generator=generator), dim=-1)
    x, prompt = flux.latents(), flux.prompt(model)
    control = torch.randn(x.shape, generator=generator)

    class Vae:
        def encode(self, picture):
            return control

        def spacial_compression_encode(self):
            return 8

    with torch.no_grad():
        tokens = resampler(embedding[:, None])
        residuals = theirs(
            **inputs(x, SIGMA, prompt, tokens),
            controlnet_cond=packed((control - 0.1159) * 0.3611),  # Flux.1's shift and scale
            conditioning_scale=STRENGTH,
        )
        parts = dict(zip(("controlnet_block_samples", "controlnet_single_block_samples"), residuals))
        wanted = diffusers_prediction(transformer, x, SIGMA, prompt, **parts)
        own = load(state).project(Features(embedding), None)["face"]
    picture = torch.zeros(1, 8 * x.shape[-2], 8 * x.shape[-1], 3)
    both = (lambda text: own,) * 2
    positive, _ = control_with_faces(prompt, prompt, net, picture, *both, STRENGTH, 0.0, 1.0, vae=Vae())
    return difference(predicted(model, x, positive), wanted, predicted(model, x, prompt))


COMPARISONS = {"PuLID-FLUX": pulid, "WithAnyone": withanyone, "InstantX": instantx, "InfiniteYou": infiniteyou}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True)
    for compare in COMPARISONS.values():
        parser.add_argument(f"--{compare.__name__}", type=Path, help="a clone of the authors' repository")
    arguments = parser.parse_args()
    open_comfyui(arguments.comfyui, cpu=True)
    worst = 0.0
    for name, compare in COMPARISONS.items():
        if folder := getattr(arguments, compare.__name__):
            started = time.perf_counter()
            off = compare(folder)
            print(f"{name:12}  {off:.1e}  ({time.perf_counter() - started:.0f} s)", flush=True)
            worst = max(worst, off)
            gc.collect()
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
