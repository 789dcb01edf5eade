"""The cost of an adapter on a U-Net: seconds and peak memory per step, without one, with one stream, with two.

    python benchmarks/speed.py --comfyui DIR [--base SD1.5 SDXL] [--latent 32] [--batch 1] [--steps 5]
        [--ipadapter-plus DIR]

Full-size U-Nets of random weights, CFG (two conditionings), through ComfyUI's own sampling. Compare the ratios: seconds
depend on the machine. With a clone of IPAdapter_plus, the same IP-Adapter file is measured in that pack, too.
"""

import argparse
from pathlib import Path

from shared import (
    CONFIGS,
    TABLE,
    clone_module,
    in_turns,
    known,
    load,
    make_model,
    open_comfyui,
    step_seconds,
    table_rows,
)


def make_adapter(model, streams: int):
    import torch

    from facecdm.adapter.config import AdapterConfig
    from facecdm.adapter.model import TripletAdapter
    from facecdm.hosts.comfy.unet import layer_map

    adapter = TripletAdapter(
        AdapterConfig(layer_map(model), image_width=1280 if streams == 2 else 0, image_tokens=16), torch.float16
    )
    for stream in adapter.streams.values():
        torch.nn.init.ones_(stream.gate.knots)
    return adapter.requires_grad_(False)


def with_ip_adapter(model, folder: Path) -> dict:
    """The same IP-Adapter in FaceCDM and in IPAdapter_plus."""
    import published
    import torch

    from facecdm.adapter.features import Features
    from facecdm.adapter.person import Person
    from facecdm.hosts.comfy.sampling.apply import apply_person
    from facecdm.hosts.comfy.unet import layer_map

    found = layer_map(known(model))
    sizes = published.Sizes(found.context, 768, 12, 12)
    state = published.published_state("ip-adapter", found, sizes, lora_rank=0)
    embedding = torch.randn(1, sizes.pooled)
    flat = {f"{part}.{name}": value for part, own in state.items() for name, value in own.items()}
    ours = apply_person(model, Person(load(flat), None, Features(embedding)))
    pack = clone_module(folder, "IPAdapterPlus")
    settings = dict(weight=1.0, weight_type="linear", start_at=0.0, end_at=1.0)
    theirs, *_ = pack.IPAdapterEmbeds().apply_ipadapter(
        model, state, embedding, **settings, neg_embed=torch.zeros_like(embedding), clip_vision=True
    )
    return {"IP-Adapter": ours, "IP-Adapter by IPAdapter_plus": theirs}


def benchmark(
    base: str, latent: int, steps: int, rounds: int, batch: int = 1, ipadapter_plus: Path | None = None, **sizes
) -> list[str]:
    """Rows of TABLE; `sizes` are changes of the U-Net's configuration."""
    import comfy.model_management
    import torch

    from facecdm.adapter.person import Person
    from facecdm.hosts.comfy.sampling.apply import apply_person

    device = comfy.model_management.get_torch_device()
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    plain = make_model(base, device, dtype, **sizes)
    face, image = torch.nn.functional.normalize(torch.randn(1, 512), dim=1), torch.randn(1, 257, 1280)
    variants = {
        "plain": plain,
        "face": apply_person(plain, Person(make_adapter(plain, 1), face)),
        "face + image": apply_person(plain, Person(make_adapter(plain, 2), face, image)),
    }
    if ipadapter_plus:
        variants |= with_ip_adapter(plain, ipadapter_plus)
    context = plain.model.model_config.unet_config["context_dim"]
    prompts = [[[torch.randn(1, 77, context), {"pooled_output": torch.randn(1, 1280)}]] for _ in range(2)]
    x = torch.randn(batch, 4, latent, latent)

    def measure(model):
        return step_seconds(model, x, prompts, 5.0, 5.0, steps, device)[:2]

    return table_rows(f"{base} {8 * latent} px × {batch}", *in_turns(variants, measure, rounds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--base", nargs="+", choices=list(CONFIGS), default=list(CONFIGS))
    parser.add_argument("--latent", type=int, default=32, help="side of the latents; 64 is 512 px")
    parser.add_argument("--batch", type=int, default=1, help="pictures in a batch")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to torch")
    parser.add_argument("--ipadapter-plus", type=Path, help="a clone of ComfyUI_IPAdapter_plus")
    arguments = parser.parse_args()
    open_comfyui(arguments.comfyui)
    import torch
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(TABLE, flush=True)
    for base in arguments.base:
        sizes = (arguments.latent, arguments.steps, arguments.rounds, arguments.batch)
        print("\n".join(benchmark(base, *sizes, arguments.ipadapter_plus)), flush=True)


if __name__ == "__main__":
    main()
