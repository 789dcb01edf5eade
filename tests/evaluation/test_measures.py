"""Measures with known results."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facecdm.evaluation import measures


def unit(*values: float) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor(values, dtype=torch.float32), dim=0)


def test_copy_paste_is_1_for_the_reference_and_minus_1_for_the_held_out_photo():
    reference, held_out = unit(1, 0, 0), unit(0.5, 1, 0)
    assert measures.copy_paste(reference, reference, held_out) == pytest.approx(1, abs=1e-3)
    assert measures.copy_paste(held_out, reference, held_out) == pytest.approx(-1, abs=1e-3)
    between = torch.nn.functional.normalize(reference + held_out, dim=0)
    assert measures.copy_paste(between, reference, held_out) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(
    ("generated", "reference", "held_out", "expected"),
    [  # degrees on a circle: (θ_gt − θ_gr) / θ_tr
        (10, 0, 40, (30 - 10) / 40),
        (40, 0, 60, (20 - 40) / 60),
        (-20, 0, 60, 1.0),  # beyond the reference, 80° and 20°
        (100, 0, 60, -1.0),
        (30, 0, 60, 0.0),
        (5, 20, 20, 0.0),  # the photos are equal
    ],
)
def test_copy_paste_by_hand(generated, reference, held_out, expected):
    def at(degrees):
        return 21.5 * torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])

    assert measures.copy_paste(at(generated), at(reference), at(held_out)) == pytest.approx(expected, abs=1e-6)


def test_copy_paste_of_perpendicular_embeddings():
    """All three angles are a quarter turn: a stranger is neither a copy nor the held-out photo."""
    assert measures.copy_paste(*torch.eye(3)) == pytest.approx(0, abs=1e-9)
    assert measures.copy_paste(unit(1, 0, 1), *torch.eye(3)[:2]) == pytest.approx(0.5)  # (90° − 45°) / 90°


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1), min_size=9, max_size=9))
def test_copy_paste_stays_in_its_range(values):
    vectors = torch.tensor(values).view(3, 3) + torch.eye(3) * 1.5
    a, b, c = torch.nn.functional.normalize(vectors, dim=1)
    assert -1.001 <= measures.copy_paste(a, b, c) <= 1.001


def test_a_common_part_is_subtracted():
    shared = torch.tensor([3.0, 0, 0])
    a, b = shared + torch.tensor([0.0, 1, 0]), shared + torch.tensor([0.0, 0, 1])
    assert measures.cosine(a, b) == pytest.approx(0.9)
    assert measures.cosine(a, b, shared) == pytest.approx(0, abs=1e-6)


def test_blur_lowers_sharpness():
    from scipy.ndimage import gaussian_filter

    picture = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    points = np.float32([[38, 51], [73, 51], [56, 71], [41, 92], [70, 92]])
    blurred = gaussian_filter(picture.astype(float), (2, 2, 0)).astype(np.uint8)
    assert measures.sharpness(blurred, points) < 0.1 * measures.sharpness(picture, points)


def test_diversity_counts_differences_and_not_repeats():
    black, white = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 255, np.uint8)
    assert measures.diversity([black]) == measures.diversity([black, black]) == 0
    assert measures.diversity([black, white]) == pytest.approx(1)
    assert measures.diversity([black, black, white]) == pytest.approx(2 / 3)


def test_diversity_of_many_pictures_needs_little_memory():
    import tracemalloc

    pictures = [np.full((32, 32, 3), number % 251, np.uint8) for number in range(600)]
    tracemalloc.start()
    measures.diversity(iter(pictures))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20  # all pairs of all pixels are 4 GiB


@settings(max_examples=30)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=40))
def test_the_interval_holds_the_mean_and_shrinks_to_it(values):
    people = {f"p{number}": value for number, value in enumerate(values)}
    mean, low, high = measures.interval(people)
    assert low - 1e-9 <= mean <= high + 1e-9 and mean == pytest.approx(sum(values) / len(values))
    assert measures.interval({f"p{n}": 0.5 for n in range(5)}) == (0.5, 0.5, 0.5)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        _, low, high = measures.interval(dict(enumerate_names(rng.normal(0.3, 0.2, 40))), draws=400)
        hits += low <= 0.3 <= high
    assert 0.89 <= hits / 200 <= 0.99


def enumerate_names(values):
    return ((f"{number:03d}", float(value)) for number, value in enumerate(values))


def test_one_person_has_no_interval():
    mean, *bounds = measures.interval({"a": 0.5})
    assert mean == 0.5 and all(map(math.isnan, bounds))
