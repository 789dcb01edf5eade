"""A stage's settings reach its losses, and its terms weigh what they say."""

from dataclasses import replace

import pytest
import torch
from step_stubs import ManyPeople, StubDenoiser

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.model import TripletAdapter
from facecdm.errors import FaceCDMError
from facecdm.training.held_out import training_part
from facecdm.training.losses import FewStepIdentityLoss, IdentityLoss, LossInputs, identity_settings, person_means
from facecdm.training.losses.loss import centred
from facecdm.training.stages import PRESETS, Stage
from facecdm.training.step import Term
from facecdm.training.terms import check_losses, terms_of


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Of a data set of 60 people; the recogniser is a stub, so that no file is read."""
    monkeypatch.setattr(identity_settings, "ArcFace", lambda path: torch.nn.Identity())
    return LossInputs(ManyPeople(), StubDenoiser(), adapter(), tmp_path / "recogniser.onnx")


def adapter(spatial: bool = False) -> TripletAdapter:
    return TripletAdapter(AdapterConfig(StubDenoiser.layer_map, face_rank=8, face_tokens=4, spatial_tokens=spatial))


def terms(inputs: LossInputs, **settings) -> dict[str, Term]:
    return {term.name: term for term in terms_of(Stage(**{"bottleneck": 0.0} | settings), inputs)}


def test_the_diffusion_loss_is_always_there_and_others_where_they_weigh_something(inputs):
    assert list(terms(inputs)) == ["diffusion"]
    stages = [list({term.name: term for term in terms_of(stage, inputs)}) for stage in PRESETS["adapter"]]
    assert stages == [
        ["diffusion", "bottleneck"],
        ["diffusion", "bottleneck", "identity", "localisation"],
        ["diffusion", "bottleneck", "identity", "alignment", "background"],
    ]


def test_the_weight_of_an_infrequent_term_is_multiplied_by_its_interval():
    """Over any number of whole intervals the sum of its weights is that of a term of every step."""
    for every in (1, 2, 5):
        weights = [Term("", abs, 0.5, every).weight_at(step) for step in range(1, 41)]
        assert sum(weights) == pytest.approx(0.5 * 40)
        assert [step for step, weight in enumerate(weights, 1) if weight] == list(range(every, 41, every))


def test_a_ramp_grows_to_the_whole_weight():
    term = Term("", abs, 0.4, ramp=8)
    assert [term.weight_at(step) for step in (1, 4, 8, 9, 100)] == pytest.approx([0.05, 0.2, 0.4, 0.4, 0.4])


def test_alignment_and_background(inputs):
    made = terms(inputs, alignment=0.5, alignment_layout=0.2, alignment_every=3, background=0.7)
    alignment, background = made["alignment"], made["background"]
    assert (alignment.weight, alignment.every, alignment.needs) == (0.5, 3, {"queries"})
    assert (background.weight, background.every, background.needs) == (0.7, 3, {"plain"})
    # The layout's own weight is `alignment_layout`, whatever the weight of the response.
    assert alignment.weight * alignment.loss.layout == pytest.approx(0.2)


def test_min_snr_and_localisation(inputs):
    made = terms(inputs, min_snr=2.5, localisation=0.3)
    assert made["diffusion"].loss.gamma == 2.5 and made["diffusion"].weight == 1
    assert made["localisation"].weight == 0.3 and made["localisation"].needs == {"outputs"}


def test_identity(inputs):
    settings = {"identity": 0.2, "identity_below": 450, "identity_every": 4, "identity_ramp": 30}
    term = terms(inputs, **settings, identity_toward="reference")["identity"]
    assert (term.weight, term.every, term.ramp) == (0.2, 4, 30)
    loss = term.loss
    assert type(loss) is IdentityLoss and (loss.high, loss.toward, loss.bank) == (450, "reference", None)
    assert torch.equal(loss.mean, inputs.data.mean_face) and loss.persons is None
    loss = terms(inputs, identity=0.2, identity_toward="person")["identity"].loss
    assert torch.equal(loss.persons, person_means(inputs.data, inputs.data.mean_face))


def test_identity_after_a_few_steps(inputs):
    settings = {"few_steps": 6, "few_steps_learnt": 3, "few_steps_guidance": 2.5}
    loss = terms(inputs, identity=0.2, **settings)["identity"].loss
    assert type(loss) is FewStepIdentityLoss
    assert (loss.steps, loss.learnt, loss.guidance, loss.begin) == (6, 3, 2.5, "picture")


@pytest.mark.parametrize(
    "most, expected",
    [(4096, range(180)), (100, range(0, 180, 2)), (50, range(0, 180, 4)), (60, range(0, 180, 3))],
)
def test_the_bank_holds_every_nth_picture(inputs, monkeypatch, most, expected):
    monkeypatch.setattr(identity_settings, "MOST_OTHERS", most)
    loss = terms(inputs, identity=0.2, contrast=0.3)["identity"].loss
    assert loss.contrast == 0.3
    assert torch.equal(loss.bank.embeddings, inputs.data.rows.face[list(expected)])
    assert torch.equal(loss.bank.identity, inputs.data.rows.identity[list(expected)])


def test_losses_know_nothing_of_held_out_pictures(inputs):
    data, held_out = inputs.data, frozenset(range(3, 12)) | {0}
    assert training_part(data, frozenset()) is data
    part = training_part(data, held_out)
    kept = [picture for picture in range(len(data)) if picture not in held_out]
    assert len(part) == len(kept) and len(part.people) == 57 and part.people[0] == [1, 2] and 1 not in part.people
    made = terms(replace(inputs, data=part), identity=0.2, identity_toward="person", contrast=0.1)["identity"].loss
    faces = torch.nn.functional.normalize(data.rows.face, dim=1)
    torch.testing.assert_close(made.mean, faces[kept].mean(0))
    assert torch.equal(made.bank.embeddings, data.rows.face[kept])
    own = centred(data.rows.face[1:3], made.mean).sum(0)
    torch.testing.assert_close(made.persons[0], torch.nn.functional.normalize(own, dim=0))
    assert not made.persons[1:4].any()
    loaded, load = set(), data.load
    data.load = lambda indices: loaded.update(indices) or load(indices)
    assert terms(replace(inputs, data=part), linear_identity=0.2) and loaded == set(kept)


def test_a_missing_input_of_a_loss_is_named_with_its_stage(inputs):
    def check(recogniser=inputs.recogniser, data=inputs.data, spatial=False, **settings):
        check_losses(Stage(name="fine", **settings), LossInputs(data, None, adapter(spatial), recogniser))

    with pytest.raises(FaceCDMError, match="'fine' has an identity loss, and no recogniser"):
        check(recogniser=None, identity=0.1)
    with pytest.raises(FaceCDMError, match="'broad' has linear_identity, which needs a VAE"):
        check_losses(Stage(linear_identity=1.0), LossInputs(inputs.data, StubDenoiser(can_decode=False), None))
    with pytest.raises(FaceCDMError, match="at least 32 people and this one has 5"):
        check(data=ManyPeople(5), linear_identity=0.1)
    from_noise = {"identity": 0.1, "few_steps": 2, "few_steps_from": "noise"}
    with pytest.raises(FaceCDMError, match="'fine' has few_steps_from: noise, .* conditioned on face location"):
        check(**from_noise)
    with pytest.raises(FaceCDMError, match="conditioned on face location"):
        check(spatial=True, **from_noise, drop_pose=1.0)
    check(spatial=True, **from_noise, drop_pose=0.9)
    check(recogniser=None)
