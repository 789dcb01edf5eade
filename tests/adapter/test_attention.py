"""The formulas of method.md, written out slowly, against the code."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facecdm.adapter.attention import PROJECTIONS, LayerStream, attend, triplet_attention
from facecdm.adapter.gates import SIGMA_RANGE, knot_weights

HEADS, WIDTH = 2, 8


def slow_attention(q, k, v):
    """softmax(q kᵀ/√d) v, head by head, row by row."""
    out = torch.zeros_like(q)
    d = WIDTH // HEADS
    for b in range(len(q)):
        for h in range(HEADS):
            part = slice(h * d, (h + 1) * d)
            scores = q[b, :, part] @ k[b, :, part].T / math.sqrt(d)
            out[b, :, part] = scores.softmax(-1) @ v[b, :, part]
    return out


def cosine(a, b) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def listen(q, stream, row):
    of = row - stream.start if len(stream.k) > 1 else 0
    return slow_attention(q[row : row + 1], stream.k[of : of + 1], stream.v[of : of + 1])[0]


def slow_triplet(q, text, streams):
    out = text.clone()
    for s in streams:
        other = [o for o in streams if o is not s and (o.person, o.start, o.rows) == (s.person, s.start, s.rows)]
        for row in range(s.start, s.start + s.rows):
            attended = listen(q, s, row)
            routes = torch.ones(q.shape[1], 1)
            if s.router is not None:
                theirs = listen(q, other[0], row) if other else None
                for n in range(q.shape[1]):
                    pairs = [cosine(text[row, n], attended[n])]
                    pairs += [cosine(text[row, n], theirs[n]), cosine(attended[n], theirs[n])] if other else [0, 0]
                    routes[n] = 1 + math.tanh(sum(float(u) * c for u, c in zip(s.router, pairs)) + float(s.router[3]))
            if s.kappa is not None:
                for n in range(q.shape[1]):
                    for h in range(HEADS):
                        part = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
                        a, t = attended[n, part].clone(), text[row, n, part]
                        attended[n, part] = a - s.kappa * (a @ t) / (t @ t) * t
            mask = 1 if s.mask is None else s.mask[0]
            out[row] += s.gate * routes * mask * attended
    return out


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 4), data=st.data())
def test_triplet_attention_equals_the_formula(seed, batch, data):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    q, k, v = random(batch, 5, WIDTH), random(batch, 7, WIDTH), random(batch, 7, WIDTH)
    text = attend(q, k, v, HEADS)
    torch.testing.assert_close(text, slow_attention(q, k, v))
    streams = []
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, batch - 1))
        rows = data.draw(st.integers(1, batch - start))
        own = data.draw(st.sampled_from([1, rows]))
        streams.append(
            LayerStream(
                start,
                rows,
                random(own, 3, WIDTH),
                random(own, 3, WIDTH),
                random(WIDTH),
                kappa=torch.tensor(0.7) if data.draw(st.booleans()) else None,
                mask=random(1, 5, 1).abs() if data.draw(st.booleans()) else None,
                router=random(4) if data.draw(st.booleans()) else None,
                person=len(streams),
            )
        )
        if data.draw(st.booleans()):  # the same person's other stream
            own = data.draw(st.sampled_from([1, rows]))
            streams.append(
                LayerStream(
                    start,
                    rows,
                    random(own, 2, WIDTH),
                    random(own, 2, WIDTH),
                    random(WIDTH),
                    router=random(4) if data.draw(st.booleans()) else None,
                    person=streams[-1].person,
                )
            )
    wanted = slow_triplet(q, text, streams)
    with torch.no_grad():
        in_place = triplet_attention(q, text.clone(), streams, HEADS, attend)
    with torch.enable_grad():
        with_gradient = triplet_attention(q, text.clone(), streams, HEADS, attend)
    torch.testing.assert_close(in_place, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(with_gradient, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_kappa_of_a_text_output_of_zeros_is_finite(projection):
    q, zeros = torch.randn(1, 5, WIDTH), torch.zeros(1, 5, WIDTH)
    k, v = torch.randn(2, 1, 3, WIDTH)
    stream = LayerStream(0, 1, k, v, torch.ones(WIDTH), torch.tensor(1.0), projection=projection)
    with torch.no_grad():
        assert torch.isfinite(triplet_attention(q, zeros, [stream], HEADS, attend)).all()


def test_a_router_of_zeros_is_a_no_op_and_one_of_zero_values_is_finite():
    q, text = torch.randn(1, 5, WIDTH), torch.randn(1, 5, WIDTH)
    k, v, gate = torch.randn(1, 3, WIDTH), torch.randn(1, 3, WIDTH), torch.randn(WIDTH)
    plain, routed = (LayerStream(0, 1, k, v, gate, router=router) for router in (None, torch.zeros(4)))
    without_values = LayerStream(0, 1, k, torch.zeros_like(v), gate, router=torch.randn(4))
    with torch.no_grad():
        assert torch.equal(
            triplet_attention(q, text.clone(), [routed], HEADS, attend),
            triplet_attention(q, text.clone(), [plain], HEADS, attend),
        )
        assert torch.equal(triplet_attention(q, text.clone(), [without_values], HEADS, attend), text)


@given(sigma=st.floats(1e-4, 1e5), knots=st.integers(2, 16))
def test_knot_weights_interpolate(sigma, knots):
    weights = knot_weights(torch.tensor([sigma]), knots)[0]
    assert weights.min() >= 0 and weights.sum().item() == pytest.approx(1, abs=1e-4)
    assert (weights > 0).sum() <= 2
    low, high = (math.log(value) for value in SIGMA_RANGE)
    position = (weights * torch.linspace(low, high, knots)).sum().item()
    assert position == pytest.approx(min(max(math.log(sigma), low), high), abs=1e-2)
