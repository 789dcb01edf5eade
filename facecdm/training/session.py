"""A whole training from the shell: base, data, adapter, the stages one after another, and the files that come out."""

import json
from pathlib import Path

import torch

from ..adapter.native import load_adapter, save_adapter
from ..bases import name_of
from ..errors import BadFile, FaceCDMError, MissingModel
from ..files import write_named
from ..formats.read import tensors_of
from .chart import draw_losses
from .config import Config
from .dataset.data_set import DataSet
from .denoiser import Denoiser
from .initialise import new_adapter
from .lora import Lora
from .losses import LossInputs
from .losses.linear import check_people
from .preview import choose, preview
from .progress import Progress
from .stages import Stage
from .terms import terms_of
from .trainer import StageResult, Trainer, Worker, check_location_conditioning


class Session:
    """Opens everything that a Config names, but for `data` and `denoiser` where they are open already.

    Raises FaceCDMError where parts do not fit together.
    """

    def __init__(self, config: Config, accelerator=None, data: DataSet | None = None, denoiser: Denoiser | None = None):
        self.config, self.accelerator = config, accelerator
        self.data = data or DataSet(config.data)
        self.denoiser = denoiser or self._open_base()
        self.worker = (
            Worker()
            if accelerator is None
            else Worker(
                accelerator.process_index, accelerator.num_processes, lambda value: accelerator.reduce(value, "mean")
            )
        )
        self._check()
        self.held_out = held_out(self.data, config.held_out)
        self.adapter, self.lora = self._first_adapter(), self._first_lora()
        for stage in config.plan():
            check_location_conditioning(stage, self.adapter)

    def _open_base(self):
        from ..demo.paths import POSE_CONTROLNET
        from ..hosts.diffusers.denoiser import demo_denoiser, folder_denoiser

        config = self.config
        device = (
            str(self.accelerator.device)
            if self.accelerator is not None
            else config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        )
        control = POSE_CONTROLNET if str(config.control) == "demo" else config.control
        denoiser = (
            demo_denoiser(device=device, pose=control)
            if config.base == "demo"
            else folder_denoiser(Path(config.base), device, control=control)
        )
        shown = self.data.empty_prompt.states.shape[-1]
        if shown != denoiser.layer_map.context:
            raise FaceCDMError(
                f"the data set's text has {shown} features and the base model reads "
                f"{denoiser.layer_map.context}: prepare the data set with the model that is trained"
            )
        return denoiser

    def _check(self) -> None:
        """What would else be found when a stage begins, after hours."""
        for stage in self.config.plan():
            if stage.identity and self.config.recogniser is None:
                raise FaceCDMError(
                    f"the stage {stage.name!r} has an identity loss: name InsightFace's file for "
                    f"{self.data.recogniser} as recogniser, or set identity: 0 in all"
                )
            if stage.linear_identity:
                check_people(self.data)
            if "control" in stage.train and (not self.denoiser.control_layers() or not self.data.has_pose):
                raise FaceCDMError(
                    f"the stage {stage.name!r} trains the LoRA of a ControlNet: name the ControlNet as "
                    "control, and prepare the data set with pose pictures (--pose)"
                )
            if stage.batch % self.worker.count:
                raise FaceCDMError(
                    f"batch ({stage.batch}) of the stage {stage.name!r} must be a multiple of the "
                    f"number of processes ({self.worker.count})"
                )
        if self.config.recogniser is not None and not self.config.recogniser.is_file():
            raise MissingModel(f"there is no recogniser at {self.config.recogniser}")

    def _first_adapter(self):
        if self.config.adapter is None:
            return new_adapter(self.denoiser, self.data, **self.config.sizes.model_dump())
        adapter = load_adapter(self.config.adapter)
        if adapter.config.layer_map != self.denoiser.layer_map:
            raise FaceCDMError(
                f"{self.config.adapter} was made for {name_of(adapter.config.layer_map)}, and the base is "
                f"{name_of(self.denoiser.layer_map)}"
            )
        widths = (self.data.face_width, self.data.vision_width)
        if adapter.config.face_width != widths[0] or adapter.config.image_width not in (0, widths[1]):
            raise FaceCDMError(
                f"{self.config.adapter} reads faces of {adapter.config.face_width} and images of "
                f"{adapter.config.image_width} features, and the data set has {widths[0]} and "
                f"{widths[1]}: prepare it with the adapter's encoders"
            )
        return adapter

    def _first_lora(self) -> Lora:
        if self.config.lora is None:
            return Lora()
        lora = Lora.from_tensors(tensors_of(self.config.lora)[0])
        if not lora.parts:
            raise BadFile(
                f"{self.config.lora} holds no LoRA as the training writes it (NAME.lora_down.weight): name "
                "the file that lies beside the adapter"
            )
        with lora.on(self.denoiser.layers()):  # raises where it is another U-Net's
            return lora

    def describe(self) -> str:
        parameters = sum(value.numel() for value in self.adapter.parameters())
        return (
            f"base: {name_of(self.denoiser.layer_map)} on {self.denoiser.device}\n"
            f"data: {len(self.data)} pictures of {len(self.data.people)} people, {len(self.held_out)} pictures "
            f"held out\nadapter: {parameters / 1e6:.1f} M weights, "
            f"{'begins anew' if self.config.adapter is None else self.config.adapter}"
        )

    def run(self) -> StageResult:
        """All stages; a stage that is finished already is read from its files."""
        adapter, lora, control, result = self.adapter, self.lora, Lora(), None
        if self.accelerator is not None and self.config.tracker:
            self.accelerator.init_trackers("facecdm")
        for stage in self.config.plan():
            result = self._stage(stage, adapter, lora, control)
            adapter, lora, control = result.adapter, result.lora, result.control
        if self.accelerator is not None and self.config.tracker:
            self.accelerator.end_training()
        if self.worker.rank == 0:
            self._finish(result)
        return result

    def _stage(self, stage: Stage, adapter, lora: Lora, control: Lora) -> StageResult:
        terms = terms_of(stage, LossInputs(self.data, self.denoiser, adapter, self.config.recogniser))
        trainer = Trainer(
            self.denoiser,
            adapter,
            lora,
            self.data,
            stage,
            terms,
            self.config.out,
            self.held_out,
            self.denoiser.fingerprint,
            self.worker,
            control,
        )
        with Progress(stage, trainer.step, quiet=self.worker.rank > 0) as progress:
            result = trainer.run(lambda trainer: self._watch(trainer, progress))
        if self.worker.rank == 0:
            self._keep(stage, result)
        return result

    def _watch(self, trainer: Trainer, progress: Progress) -> None:
        progress(trainer.step, trainer.history)
        if self.accelerator is not None and self.config.tracker:
            values = {name: value for name, value in trainer.history[-1].items() if name != "step"}
            self.accelerator.log(values, step=trainer.step)
        if trainer.step % trainer.stage.validate_every == 0 and self.worker.rank == 0 and self.held_out:
            people, prompts = choose(self.data, sorted(self.held_out))
            pictures = preview(trainer.denoiser, trainer.learner, self.data, people, prompts)
            save_row(pictures, self.config.out / "pictures" / f"{trainer.stage.name}-{trainer.step:06d}.png")
            draw_losses(trainer.history).save(self.config.out / f"{trainer.stage.name}.png")

    def _keep(self, stage: Stage, result: StageResult) -> None:
        out = self.config.out
        draw_losses(result.history).save(out / f"{stage.name}.png")
        lines = "\n".join(json.dumps(line) for line in result.history)
        (out / f"{stage.name}.jsonl").write_text(lines + "\n", encoding="utf-8")

    def _finish(self, result: StageResult) -> None:
        from safetensors.torch import save

        notes = {
            "facecdm.data": self.data.fingerprint,
            "facecdm.base": Path(self.config.base).name,
            "facecdm.stages": json.dumps([stage.to_dict() for stage in self.config.plan()]),
        }
        path = save_adapter(result.adapter, self.config.out, self.config.name, overwrite=True, notes=notes)
        print(f"adapter: {path}")
        for kind, lora in (("lora", result.lora), ("control lora", result.control)):
            if lora.parts:
                tensors = {name: value.contiguous() for name, value in lora.tensors().items()}
                content = save(tensors, notes | {"format": "pt", "ss_network_module": "networks.lora"})
                print(f"{kind}: {write_named(content, self.config.out, f'{self.config.name} {kind}', overwrite=True)}")


def held_out(data: DataSet, share: float) -> frozenset[int]:
    """The pictures of every so many-th person: those are watched, and not trained on."""
    people = sorted(data.people)
    count = min(round(len(people) * share), len(people) - 1)
    chosen = {people[int((place + 0.5) * len(people) / count)] for place in range(count)} if count > 0 else set()
    return frozenset(index for person in chosen for index in data.people[person])


def save_row(pictures: torch.Tensor, path: Path) -> None:
    """[N, 3, H, W] in 0…1, side by side."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    row = torch.cat(list(pictures), dim=2).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(row).save(path)
