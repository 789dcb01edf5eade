"""One training of an arm: its initial adapter, its folder; it is done once."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from benchmarks.shared import lora_beside
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.native import load_adapter, save_adapter
from facecdm.files import write_atomically
from facecdm.training.config import Config
from facecdm.training.initialise import new_adapter
from facecdm.training.lora import Lora
from facecdm.training.session import Session

from .arms import Arm, Design, config_of, plan


@dataclass(frozen=True, eq=False)
class Trained:
    """The result of a training. Equal keys mean equal weights; `facts` are for the report."""

    key: str
    adapter: TripletAdapter
    lora: Lora
    facts: dict


@dataclass(frozen=True, eq=False)
class Lab:
    """What all trainings share.

    steps, batch  of each training; 0: the recipe's
    folder        of the experiment
    given         existing adapters by arm, instead of its first training
    """

    denoiser: object
    data: object
    recipe: Config
    steps: int
    batch: int
    folder: Path
    given: dict[str, Path] = field(default_factory=dict)

    def stages(self, arm: Arm, seed: int):
        return plan(arm, self.recipe, self.steps, self.batch, seed)

    def key(self, arm: Arm, seed: int) -> str:
        sizes, recogniser = self.recipe.sizes.model_dump(), self.recipe.recogniser
        return digest(
            [
                [stage.to_dict() for stage in self.stages(arm, seed)],
                asdict(arm.design),
                sizes,
                seed,
                self.data.fingerprint,
                self.denoiser.fingerprint,
                recogniser and recogniser.name,
            ]
        )

    def train(self, arm: Arm, seed: int) -> Trained:
        """Train, continue an interrupted training, or read a finished one."""
        if seed == 0 and arm.name in self.given:
            return _read(arm, self.given[arm.name])
        key = self.key(arm, seed)
        folder = self.folder / "trainings" / f"{arm.name}, seed {seed}, {key}"
        done, begun = folder / "done.json", folder / "begun.safetensors"
        if not done.exists():
            if not begun.exists():
                save_adapter(initialise(arm.design, self, seed), folder, begun.stem, overwrite=True)
            config = config_of(self.stages(arm, seed), self.recipe, out=folder, adapter=begun)
            result = Session(config, lambda *_: self.denoiser, data=self.data).run()
            facts = {
                "arm": arm.name,
                "seed": seed,
                "weights": _count_weights(result.adapter),
                "stages": [stage.to_dict() for stage in self.stages(arm, seed)],
                "last losses": _last_losses(result.history),
            }
            write_atomically(done, json.dumps(facts, indent=1).encode())
        for checkpoint in folder.glob("*.pt"):
            checkpoint.unlink()  # 30 MB a stage, needed only during training
        path = folder / "adapter.safetensors"
        return Trained(key, load_adapter(path), _lora(path), json.loads(done.read_text()))


def _read(arm: Arm, path: Path) -> Trained:
    """An adapter that was trained elsewhere, with the LoRA beside it; its metadata has the stages."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        stages = json.loads((file.metadata() or {}).get("facecdm.stages", "[]"))
    adapter, lora = load_adapter(path), _lora(path)
    contents = [
        hashlib.sha256(
            value.contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else str(value.item()).encode()
        ).hexdigest()
        for value in (*adapter.state_dict().values(), *lora.tensors().values())
    ]
    return Trained(
        digest(contents),
        adapter,
        lora,
        {"arm": arm.name, "seed": 0, "weights": _count_weights(adapter), "stages": stages, "file": path.name},
    )


def initialise(design: Design, lab: Lab, seed: int) -> TripletAdapter:
    """A new adapter of that design; the seed decides every weight."""
    given = lab.recipe.sizes.given()
    sizes = given | {
        "interplay": design.interplay and lab.recipe.sizes.interplay,
        "router": design.router or lab.recipe.sizes.router,
    }
    full = new_adapter(lab.denoiser, lab.data, seed=seed, positions=False, **given)
    if not design.image:
        sizes["image_width"] = 0
    if design.whole_code:
        sizes["face_rank"] = 2 * full.config.face_width  # its features come in pairs of opposite sign
    if design.faceid:
        return _faceid(full, lab, sizes, seed)
    positions = design.spatial_tokens and lab.recipe.sizes.spatial_tokens
    return new_adapter(lab.denoiser, lab.data, seed=seed, positions=positions, **sizes)


def _faceid(full: TripletAdapter, lab: Lab, sizes: dict, seed: int) -> TripletAdapter:
    """IP-Adapter FaceID's design with as many weights as `full`, by the width of its MLP.

    A gate that is constant over the noise folds into V, so a FaceID file can hold this. It is initialised as a no-op
    like ours, so that a short training is not spent on repairing the base; the embedding is centred like ours.
    """
    torch.random.default_generator.manual_seed(seed)
    sizes = sizes | {"knots": 1, "face_content": 0}
    small = _plain(full, {**sizes, "face_rank": 4})
    one = _count_weights(_plain(full, {**sizes, "face_rank": 5})) - _count_weights(small)
    wide = 4 + round((_count_weights(full) - _count_weights(small)) / one)
    adapter = _plain(full, {**sizes, "face_rank": wide}).init_from_text(lab.denoiser.text_keys_values())
    with torch.no_grad():
        adapter.face_projector.mean.copy_(lab.data.mean_face)
    return adapter.requires_grad_(False)


def _plain(like: TripletAdapter, sizes: dict) -> TripletAdapter:
    return TripletAdapter(replace(like.config, **sizes))


def _count_weights(adapter: TripletAdapter) -> int:
    """The number of weights that affect images: `restore` serves only the bottleneck's loss."""
    return sum(value.numel() for name, value in adapter.named_parameters() if ".restore." not in name)


def _lora(adapter: Path) -> Lora:
    """The LoRA beside an adapter's file; an empty one where there is none."""
    from safetensors.torch import load_file

    path = lora_beside(adapter)
    return Lora.from_tensors(load_file(path)) if path else Lora()


def _last_losses(history: list[dict], steps: int = 50) -> dict[str, float]:
    """Means over the last stage's last steps, of the losses that were computed there."""
    last = history[-steps:]
    names = dict.fromkeys(name for line in last for name in line if name not in ("step", "gradient"))
    return {
        name: round(sum(found) / len(found), 5)
        for name in names
        if (found := [line[name] for line in last if name in line])
    }


def digest(value: object) -> str:
    """Ten hex digits that identify a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]
