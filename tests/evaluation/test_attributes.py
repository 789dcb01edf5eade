"""Attributes of a prompt: the text, the measures, and both judges."""

import numpy as np
import pytest
import torch

from facecdm.errors import BadFile, FaceCDMError, MissingModel
from facecdm.evaluation import judge
from facecdm.evaluation.attributes import Attribute, adherence, parse, values_of
from facecdm.evaluation.clip_score import ClipAttributes, ClipFolder, ClipScore, clip_measures

TEXT = "expression: laughing / neutral; hair: long red; age: old / old"


def test_the_text_of_attributes():
    assert parse(TEXT) == (
        Attribute("expression", "laughing", "neutral"),
        Attribute("hair", "long red"),
        Attribute("age", "old", "old"),
    )
    assert [one.conflicts for one in parse(TEXT)] == [True, False, False]
    assert parse(" ; ") == ()
    assert values_of([TEXT, "hair: short"]) == {
        "expression": ["laughing", "neutral"],
        "hair": ["long red", "short"],
        "age": ["old"],
    }


@pytest.mark.parametrize("text", ["laughing", "hair:", ": red", "hair: / red", "hair: red; hair: black"])
def test_a_text_without_name_or_value_is_refused(text):
    with pytest.raises(ValueError, match="attributes: "):
        parse(text)


def test_adherence_in_all_and_in_conflict():
    asked = parse("expression: laughing / neutral; hair: red / black; age: old / old")
    assert adherence(asked, {"expression": "laughing", "hair": "black", "age": "old"}) == {
        "adherence": pytest.approx(2 / 3),
        "adherence: expression": 1.0,
        "adherence: hair": 0.0,
        "adherence: age": 1.0,
        "adherence, conflict": 0.5,
        "adherence: expression, conflict": 1.0,
        "adherence: hair, conflict": 0.0,
    }
    assert adherence(asked, {})["adherence"] == 0, "nothing is shown where no face is found"
    assert set(adherence(parse("age: old / old"), {"age": "old"})) == {"adherence", "adherence: age"}


class Towers:
    """Embeds a picture by its mean colour, and a text by the colours that it names."""

    def __init__(self):
        self.pictures, self.texts = 0, []

    def picture(self, picture):
        self.pictures += 1
        return torch.from_numpy(picture.reshape(-1, 3).mean(0))

    def text(self, text):
        self.texts.append(text)
        return torch.tensor([float(name in text) for name in ("red", "green", "blue")])


def test_clip_chooses_the_nearest_value():
    towers, red = Towers(), np.full((4, 4, 3), (200, 30, 10), np.uint8)
    read = ClipAttributes(towers, {"hair": ["blue", "red"], "shirt": ["green", "blue"]}).read
    assert read(red, None) == {"hair": "red", "shirt": "green"}
    assert ClipScore(towers)(red, "red") > ClipScore(towers)(red, "blue")
    with pytest.raises(FaceCDMError, match="'age' has only 'old'"):
        ClipAttributes(towers, {"age": ["old"]})


def test_score_and_judge_embed_a_picture_and_a_text_once():
    towers, red = Towers(), np.full((4, 4, 3), (200, 30, 10), np.uint8)
    score, judge = clip_measures(towers, {"hair": ["blue", "red"]})
    for picture in (red, red.copy()):
        assert score(picture, "a red portrait") == score(picture, "a red portrait")
        assert judge.read(picture, None) == {"hair": "red"}
    assert towers.pictures == 2 and towers.texts.count("a red portrait") == 1
    assert clip_measures(towers, {})[1] is None


def test_a_folders_towers_are_those_of_transformers(tmp_path, comfyui):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    vision = small | {"image_size": 32, "patch_size": 16}
    model = CLIPModel(CLIPConfig(text_config=small, vision_config=vision, projection_dim=16))
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    tokenizer = CLIPTokenizer.from_pretrained(comfyui / "comfy/sd1_tokenizer")
    processor = CLIPProcessor(CLIPImageProcessor(**size), tokenizer)
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    out = model(**processor(text=["a laughing man"], images=[picture], return_tensors="pt"))
    expected = float(torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)[0])
    assert ClipScore(ClipFolder(tmp_path))(picture, "a laughing man") == pytest.approx(expected, abs=1e-5)


CLASSES = {
    "expression": ["neutral", "smiling"],
    "hair_style": ["bald", "long"],
    "hair_colour": ["black", "red"],
    "gender": ["man", "woman"],
    "age": ["old", "young"],
    "beard": ["full", "none"],
}


@pytest.fixture(scope="module")
def judge_file(tmp_path_factory):
    torch.manual_seed(0)
    made, path = judge.Judge(CLASSES), tmp_path_factory.mktemp("judge") / "judge.pt"
    torch.save({"classes": CLASSES, "model": made.state_dict()}, path)
    return path


def test_a_judge_reads_a_face_and_nothing_without_one(judge_file):
    read = judge.load(judge_file)
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    points = np.float32([[100, 100], [150, 100], [125, 130], [105, 155], [145, 155]])
    shown = read.read(picture, points)
    assert set(shown) == set(CLASSES) and all(value in CLASSES[name] for name, value in shown.items())
    crops = {view: torch.from_numpy(crop)[None] for view, crop in judge.crop_views(picture, points).items()}
    assert shown == {name: values[0] for name, values in read.name(crops).items()}
    assert read.read(picture, None) == {}
    judge.check_values(read, {"age": ["old"]})
    with pytest.raises(FaceCDMError, match="does not read 'hat'"):
        judge.check_values(read, {"hat": ["red"]})
    with pytest.raises(FaceCDMError, match="no age 'ancient', only old, young"):
        judge.check_values(read, {"age": ["ancient"]})


def test_a_file_that_is_no_judge_is_named(judge_file, tmp_path):
    with pytest.raises(MissingModel, match="there is no judge at"):
        judge.load(tmp_path / "none.pt")
    for content in (b"", b"no pickle", judge_file.read_bytes()[:5000]):
        path = tmp_path / "judge.pt"
        path.write_bytes(content)
        with pytest.raises(BadFile, match="is no judge"):
            judge.load(path)
    torch.save({"classes": CLASSES, "model": {}}, path)
    with pytest.raises(BadFile, match="is no judge"):
        judge.load(path)
