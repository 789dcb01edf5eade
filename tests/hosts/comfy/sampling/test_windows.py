"""Context windows: a batch that is sampled part by part, and references for each of its pictures."""

import logging
from types import SimpleNamespace

import pytest
import torch
from twins import conditioning, predict

from facecdm.adapter.person import Person
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.sampling.chunks import sampled_images

SIGMA, FRAMES = 2.0, 4


def randn(*shape, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


FACES = torch.nn.functional.normalize(randn(FRAMES, 512), dim=1)
X = randn(FRAMES, 4, 8, 8, seed=1) * SIGMA


@pytest.fixture(scope="module")
def prompts(in_comfy):
    return [conditioning(randn(1, 77, 96, seed=seed)) for seed in (2, 3)]


class Windows:
    """A stand-in for core's handler of context windows; as in ComfyUI 0.33, each window after the first one is sampled
    together with the frame before it, which is then dropped."""

    def __init__(self, *windows: list[int], anchor: bool = True, named: bool = True):
        self.windows, self.anchor, self.named = windows, anchor, named

    def should_use_context(self, *args) -> bool:
        return True

    def execute(self, calc_cond_batch, model, conds, x, timestep, model_options):
        out = [torch.zeros_like(x) for _ in conds]
        for frames in self.windows:
            before = [frames[0] - 1] if self.anchor and frames[0] else []
            rows = before + frames
            window = SimpleNamespace(index_list=frames, dim=0)
            if before and self.named:
                window.causal_anchor_index = before[0]
            model_options["transformer_options"]["context_window"] = window
            own = [group and [self._resized(cond, rows, len(x)) for cond in group] for group in conds]
            parts = calc_cond_batch(model, own, x[rows], timestep[rows], model_options)
            for whole, part in zip(out, parts):
                whole[frames] = part[len(before) :]
        return out

    @staticmethod
    def _resized(cond: dict, rows: list[int], count: int) -> dict:
        kept = {
            key: value._copy_with(value.cond[rows]) if len(value.cond) == count else value
            for key, value in cond["model_conds"].items()
        }
        return {**cond, "model_conds": kept}


def in_windows(model, *windows: list[int], **how):
    model = model.clone()
    model.model_options["context_handler"] = Windows(*windows, **how)
    return model


def test_the_frame_before_a_window_counts():
    """Core's causal_window_fix, on by default in ComfyUI 0.33."""

    def window(anchor):
        return {"context_window": SimpleNamespace(index_list=[4, 5], dim=0, causal_anchor_index=anchor)}

    assert sampled_images(window(3)) == (3, 4, 5)
    assert sampled_images(window(None)) == sampled_images(window(-1)) == (4, 5)


@pytest.mark.parametrize("anchor", [True, False])
def test_every_frame_has_its_own_reference(sd15, adapter, prompts, anchor):
    model = apply_person(sd15.model, Person(adapter, FACES, per_picture=True))
    whole = predict(model, X, SIGMA, *prompts, cfg=3.0)
    parts = predict(in_windows(model, [0, 1], [2, 3], anchor=anchor), X, SIGMA, *prompts, cfg=3.0)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)


def test_rows_that_the_window_does_not_name_are_warned_of_once(sd15, adapter, prompts, caplog):
    caplog.set_level(logging.WARNING, logger="facecdm")
    for faces in (FACES, FACES[:1]):
        caplog.clear()
        model = apply_person(sd15.model, Person(adapter, faces, per_picture=True))
        predict(in_windows(model, [0, 1], [2, 3], named=False), X, SIGMA, *prompts, cfg=3.0, times=2)
        assert caplog.text.count("another number of pictures than its context window") == (len(faces) > 1)


@pytest.mark.parametrize("anchor", [True, False])
def test_a_controlnet_reads_the_tokens_of_its_frames(sd15, prompts, anchor):
    from comfy.controlnet import ControlBase

    from facecdm.hosts.comfy.control.face_control import control_with_faces

    read = []

    class Net(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            read.append(cond["crossattn_controlnet"][:, 0, 0].tolist())

        def copy(self):
            copied = Net()
            self.copy_to(copied)
            return copied

    tokens = torch.arange(1.0, FRAMES + 1).view(-1, 1, 1).expand(-1, 4, 96)
    picture = torch.zeros(1, 64, 64, 3)
    linked = control_with_faces(*prompts, Net(), picture, lambda text: tokens, lambda text: -tokens, 1.0, 0.0, 1.0)
    predict(in_windows(sd15.model, [0, 1], [2, 3], anchor=anchor), X, SIGMA, *linked, cfg=3.0)
    second = [2, 3, 4] if anchor else [3, 4]
    assert [sorted(abs(value) for value in rows) for rows in read] == [[1, 1, 2, 2], sorted(second * 2)]


def cond(uuid: str) -> dict:
    return {"uuid": uuid, "model_conds": {"c_crossattn": SimpleNamespace(cond=randn(1, 77, 96, seed=len(uuid)))}}


@pytest.mark.parametrize("count", [1, FRAMES])
def test_memory_does_not_grow_with_the_number_of_windows(sd15, adapter, count):
    from facecdm.hosts.comfy.sampling.run import Run

    run, held = Run((Person(adapter, FACES[:count], per_picture=True),)), []
    conds, latents = [[cond("a"), cond("bb")]], torch.zeros(2, 4, 8, 8)
    for frames in ([0, 1], [1, 2], [2, 3], [3, 0]):
        run.step(sd15.model.model, conds, torch.tensor([SIGMA]), latents, tuple(frames))
        options = {"uuids": ["a", "bb"], "context_window": SimpleNamespace(index_list=frames, dim=0)}
        assert run.streams(0, 4, (8, 8), torch.device("cpu"), options)
        held.append(len(run._joined) + len(run._ready))
    assert len(set(held)) == 1


def test_a_window_gets_no_kept_tokens_of_other_images(sd15, adapter):
    """Another pack may call the model for all images before it does so for a window of as many rows."""
    from facecdm.hosts.comfy.sampling.run import Run

    def keys(run, frames):
        run.step(sd15.model.model, [[cond("a")]], torch.tensor([SIGMA]), torch.zeros(2, 4, 8, 8), frames)
        window = {"context_window": SimpleNamespace(index_list=list(frames), dim=0)} if frames else {}
        return run.streams(0, 2, (8, 8), torch.device("cpu"), {"uuids": ["a"], **window})[0].k

    person = Person(adapter, FACES, per_picture=True)
    fresh, used = Run((person,)), Run((person,))
    keys(used, None)
    assert torch.equal(keys(used, (2, 3)), keys(fresh, (2, 3)))


def attention_couple(model, regions: int):
    """As packs of that name patch a model: the rows of each prompt are repeated for every region."""

    def counts(options):
        return [1 if negative else regions for negative in options["cond_or_uncond"]]

    def repeat(q, k, v, options):
        chunks = [value.chunk(len(options["cond_or_uncond"])) for value in (q, k, v)]
        return tuple(torch.cat([x.repeat(n, 1, 1) for x, n in zip(own, counts(options))]) for own in chunks)

    def merge(out, options):
        rows = len(out) // sum(counts(options))
        parts = out.split([n * rows for n in counts(options)])
        return torch.cat([part.unflatten(0, (-1, rows)).mean(0) for part in parts])

    model = model.clone()
    model.set_model_attn2_patch(repeat)
    model.set_model_attn2_output_patch(merge)
    return model


@pytest.mark.parametrize("regions", [1, 2, 3])
def test_rows_that_another_pack_repeats_are_warned_of_once(sd15, adapter, prompts, caplog, regions):
    caplog.set_level(logging.WARNING, logger="facecdm")
    model = apply_person(attention_couple(sd15.model, regions), Person(adapter, FACES[:1]))
    predict(model, X[:1], SIGMA, *prompts, cfg=3.0, times=2)
    assert caplog.text.count("changes the number of rows") == (regions > 1)
