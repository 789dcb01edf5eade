"""Every setting and loss is declared once; the node, its help page and docs/losses.md say the same."""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import yaml
from step_stubs import StubDenoiser

from facecdm.errors import FaceCDMError
from facecdm.training import config as configuration
from facecdm.training import stages
from facecdm.training.config import Config
from facecdm.training.losses import LOSSES, Loss, LossInputs, LossSettings
from facecdm.training.settings import Rule, flat, rule, setting
from facecdm.training.stages import Stage

ROOT = Path(__file__).resolve().parents[2]
RULES = {one.name: rule(one) for one in fields(Stage) if rule(one)}


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_every_setting_has_one_sentence_of_help():
    assert {one.name for one in fields(Stage)} - RULES.keys() == {"name", "seed", "train"}
    assert all(re.fullmatch(r"[A-Zγ][^.].*\.", found.help) for found in RULES.values())


def test_the_help_page_says_what_the_settings_declare():
    page = plain((ROOT / "web" / "docs" / "FaceCDMStageSettings.md").read_text(encoding="utf-8"))
    for name, found in RULES.items():
        text = found.help[:-1]
        assert re.search(rf"- `{name}` \(default [^)]+\): {re.escape(text[:1].lower() + text[1:])}", page), (name, text)


def test_the_table_in_the_docs_is_what_the_losses_declare():
    page = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")
    rows = [f"| {loss.name} | {loss.formula} | {loss.requires or '–'} | {loss.trains} |" for loss in LOSSES]
    assert "\n".join(rows) in page, "the table must read\n" + "\n".join(rows)


@pytest.mark.parametrize(
    "rule, good, bad",
    [
        (Rule("", 1), [1, 5], [0, -1]),
        (Rule("", 0, 1), [0, 0.5, 1.0], [-0.01, 1.01, float("nan")]),
        (Rule(""), [-3.0, 1e9], [float("inf"), float("-inf"), float("nan")]),
        (Rule("", choices=("a", "b")), ["a", "b"], ["c", ""]),
    ],
)
def test_values_out_of_range_are_refused_by_name(rule, good, bad):
    for value in good:
        rule.check("setting", value)
    for value in bad:
        with pytest.raises(FaceCDMError, match="^setting must be .*; got "):
            rule.check("setting", value)


@pytest.mark.parametrize("name", [name for name, found in RULES.items() if found.low is not None])
def test_a_stage_checks_every_setting(name):
    low = RULES[name].low
    with pytest.raises(FaceCDMError, match=f"^{name} must be"):
        Stage().with_settings(**{name: low - 1})


def test_the_defaults_that_configurations_rely_on():
    """A configuration names only what it changes."""
    defaults = {
        "min_snr": 5.0,
        "noise_low": 0,
        "noise_high": 1000,
        "noise_share": 0.0,
        "face_region": 0.5,
        "face_window": 0.0,
        "bottleneck": 0.05,
        "identity": 0.0,
        "identity_below": 300,
        "identity_every": 1,
        "identity_ramp": 0,
        "identity_toward": "picture",
        "few_steps": 0,
        "few_steps_from": "picture",
        "few_steps_guidance": 1.0,
        "few_steps_learnt": 1,
        "contrast": 0.0,
        "linear_identity": 0.0,
        "localisation": 0.0,
        "alignment": 0.0,
        "alignment_layout": 0.1,
        "alignment_every": 1,
        "background": 0.0,
    }
    assert {name: getattr(Stage(), name) for name in defaults} == defaults


@pytest.mark.parametrize("name", stages.PRESETS)
def test_presets_train_no_kappa_and_the_docs_say_how_an_older_run_resumes(name):
    """Earlier presets trained κ in the third stage, and earlier new adapters had the interplay."""
    assert not any("kappa" in stage.train for stage in stages.preset(name))
    docs = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    written = [
        yaml.safe_load(text) for text in re.findall(r"`((?:sizes|stages): \{[^`]*(?:interplay|kappa)[^`]*)`", docs)
    ]
    config = Config(data=ROOT, out=ROOT, preset=name, **{key: value for one in written for key, value in one.items()})
    assert config.sizes.interplay
    assert config.plan()[2] == replace(stages.preset(name)[2], train=("projectors", "gates", "interplay", "kappa"))


def test_the_preset_for_located_adapters_has_the_losses_of_the_ablation():
    recipe = yaml.safe_load((ROOT / "research" / "ablation" / "recipe.yaml").read_text(encoding="utf-8"))
    measured = Config.model_validate(recipe).plan()
    every = ("linear_identity", "localisation", "alignment", "bottleneck")
    sampled = ("identity", "identity_toward", "identity_ramp", "find_location")
    sampled += ("few_steps", "few_steps_from", "few_steps_guidance", "few_steps_learnt")
    for own, theirs in zip(stages.preset("located adapter"), measured):
        names = [*every, "background", *(sampled if own.name != "broad" else ())]
        assert {name: getattr(own, name) for name in names} == {name: getattr(theirs, name) for name in names}


@pytest.mark.parametrize("name", ["few_steps_learnt", "alignment_every", "identity_every"])
def test_counts_begin_at_one(name):
    Stage().with_settings(**{name: 1})
    with pytest.raises(FaceCDMError, match=f"^{name} must be"):
        Stage().with_settings(**{name: 0})


def test_paths_of_a_configuration_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    names = ("data", "out", "adapter", "lora", "recogniser", "control", "base")
    path = tmp_path / "train.yaml"
    path.write_text("\n".join(f"{name}: ~/{name}" for name in names))
    found = configuration.read(path)
    assert {str(getattr(found, name)) for name in names} == {str(tmp_path / "home" / name) for name in names}
    path.write_text("data: data\nout: ~nobody-of-this-name/out\n")
    found = configuration.read(path)
    assert (found.data, found.out) == (tmp_path / "data", tmp_path / "~nobody-of-this-name" / "out")


def test_settings_that_contradict_one_another_are_refused():
    for values, message in (
        ({"noise_low": 500, "noise_high": 500}, "noise_low must be less than noise_high"),
        ({"few_steps": 2, "few_steps_learnt": 3}, r"few_steps_learnt must be in 1 … few_steps \(2\)"),
    ):
        with pytest.raises(FaceCDMError, match=message):
            Stage().with_settings(**values)
    Stage().with_settings(few_steps=2, few_steps_learnt=2)


@dataclass(frozen=True)
class OneLoss(Loss):
    value: float

    def __call__(self, step_data):
        return self.value


@dataclass(frozen=True)
class OneSettings(LossSettings):
    name = "one more"
    formula, requires = "", "an adapter"

    one_more: float = setting(0.0, "Weight of one more loss.", 0)
    one_more_every: int = setting(1, "Steps between such losses.", 1)

    @property
    def every(self):
        return self.one_more_every

    def check_inputs(self, stage, inputs):
        if inputs.recogniser is None:
            raise FaceCDMError(f"{stage.name} lacks a recogniser")

    def make(self, inputs):
        return OneLoss(self.one_more)


def test_a_loss_needs_nothing_but_its_declaration(monkeypatch):
    """A stage of the existing losses and one more has its settings, checks and term."""
    from facecdm.training import terms

    monkeypatch.setattr(stages, "LOSSES", (*LOSSES, OneSettings))
    more = stages.make_dataclass("More", flat((*stages._GROUPS, OneSettings)), bases=(Stage,), frozen=True)
    stage = more(one_more=0.5, one_more_every=3, bottleneck=0.0)
    assert [loss.name for loss in stage.losses()] == ["diffusion", "one more"]
    inputs = LossInputs(None, StubDenoiser(), None, Path("recogniser.onnx"))
    term = terms.terms_of(stage, inputs)[1]
    assert (term.name, term.weight, term.every, term.loss(None)) == ("one more", 0.5, 3, 0.5)
    with pytest.raises(FaceCDMError, match="broad lacks a recogniser"):
        terms.check_losses(stage, LossInputs(None, StubDenoiser(), None))
    with pytest.raises(FaceCDMError, match="one_more must be at least 0"):
        more(one_more=-1.0)


def test_groups_that_declare_a_setting_differently_are_refused():
    @dataclass(frozen=True)
    class Other:
        batch: int = setting(8, "Pictures per batch.", 1)

    with pytest.raises(TypeError, match="Other: another group declares batch differently"):
        flat((*stages._GROUPS, Other))
