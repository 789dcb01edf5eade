"""The random numbers of a training: equal for equal steps, distributed as the stage says."""

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facecdm.training.randomness import _timesteps, batches, make_random_numbers
from facecdm.training.stages import Stage


@settings(max_examples=40)
@given(low=st.integers(0, 900), width=st.integers(1, 1000), share=st.floats(0, 1))
def test_timesteps_follow_range_and_share(low, width, share):
    high = min(low + width, 1000)
    stage = Stage(noise_low=low, noise_high=high, noise_share=share)
    u = (torch.arange(4000) + 0.5) / 4000
    t = _timesteps(stage, u)
    assert t.min() >= 0 and t.max() <= 999
    inside = ((t >= low) & (t < high)).float().mean().item()
    wanted = share if share and high - low < 1000 else (high - low) / 1000
    assert abs(inside - wanted) < 0.01


def test_a_step_has_the_same_random_numbers_again():
    stage = Stage(batch=8)
    one, two = make_random_numbers(stage, 5, 0, (8, 4, 4, 4)), make_random_numbers(stage, 5, 0, (8, 4, 4, 4))
    assert all(torch.equal(vars(one)[name], vars(two)[name]) for name in vars(one))
    assert not torch.equal(one.epsilon, make_random_numbers(stage, 6, 0, (8, 4, 4, 4)).epsilon)
    part = one.part(slice(1, None, 2))
    assert torch.equal(part.epsilon, one.epsilon[1::2]) and torch.equal(part.t, one.t[1::2])


def hash_of(numbers: torch.Tensor) -> str:
    """Of whole numbers, and of others to one decimal: the last bits of normal numbers depend on the processor."""
    whole = (numbers * 10).round() if numbers.is_floating_point() else numbers
    return hashlib.sha256(repr(whole.long().tolist()).encode()).hexdigest()[:8]


RECORDED = {
    "t": "20443ece",
    "epsilon": "eb2cfab1",
    "text_on": "93578639",
    "face_on": "862c330d",
    "image_on": "9ddde32c",
    "pose_on": "fec767fc",
    "own": "b6e23d9c",
    "choice": "ef4128ed",
    "face_region": "5fdf37db",
    "window": "fec767fc",
    "window_shift": "4fa82e02",
    "find_on": "90b44c0f",
}


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("setting, decides", [("find_location", "find_on"), ("face_window", "window")])
def test_the_random_numbers_of_earlier_versions_stay_the_same(setting, decides, share):
    """A run resumed with a new version continues as it began: what is new must be drawn last."""
    names = ("drop_text", "drop_face", "drop_image", "drop_pose", "own_photo", "face_region")
    stage = Stage(seed=1, drop_all=0.1, **dict.fromkeys((*names, "face_window", "find_location"), 0.5))
    numbers = make_random_numbers(stage.with_settings(**{setting: share}), 5, 0, (16, 4, 8, 8))
    found = {name: hash_of(getattr(numbers, name)) for name in RECORDED}
    assert found | {decides: ""} == RECORDED | {decides: ""}


def test_dropout_has_its_probability():
    stage = Stage(drop_text=0.2, drop_face=0.1, drop_image=0.5, drop_all=0.1)
    random_numbers = make_random_numbers(stage, 1, 0, (20_000, 1, 1, 1))
    for on, kept in ((random_numbers.text_on, 0.72), (random_numbers.face_on, 0.81), (random_numbers.image_on, 0.45)):
        assert abs(on.float().mean().item() - kept) < 0.02


def test_shares_of_rows_and_of_batches():
    stage = Stage(own_photo=0.3, face_region=0.7, drop_pose=0.4, face_window=0.2)
    rows = make_random_numbers(stage, 1, 0, (20_000, 1, 1, 1))
    for on, share in ((rows.own, 0.3), (rows.face_region, 0.7)):
        assert abs(on.float().mean().item() - share) < 0.02
    steps = [make_random_numbers(stage, step, 0, (3, 1, 1, 1)) for step in range(2000)]
    for name, share in (("pose_on", 0.6), ("window", 0.2)):
        batches_on = torch.stack([vars(one)[name] for one in steps])
        assert (batches_on == batches_on[:, :1]).all(), f"{name} differs within a batch"
        assert abs(batches_on.float().mean().item() - share) < 0.04


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 23), min_size=1, max_size=4), size=st.integers(1, 7), start=st.integers(0, 50))
def test_batches_resume_and_leave_no_picture_out(sizes, size, start):
    ends = torch.tensor(sizes).cumsum(0).tolist()
    buckets = [list(range(end - count, end)) for count, end in zip(sizes, ends)]
    per_epoch = sum(-(-len(bucket) // size) for bucket in buckets)
    order = batches(buckets, size, 7, 0)
    all_of_them = [next(order) for _ in range(per_epoch + start + 3)]
    later = batches(buckets, size, 7, start)
    assert [next(later) for _ in range(3)] == all_of_them[start : start + 3]
    assert {index for batch in all_of_them[:per_epoch] for index in batch} == set(range(ends[-1]))
    assert all(len(batch) == size and any(set(batch) <= set(bucket) for bucket in buckets) for batch in all_of_them)
