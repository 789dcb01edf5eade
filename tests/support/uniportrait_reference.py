"""UniPortrait's and ConsistentID's tokens, and CurricularFace's maps: a second writing of their authors' code."""

import torch
from torch.nn import functional as F

STAGES = ((64, 64, 3), (64, 128, 13), (128, 256, 30), (256, 512, 3))  # IR-101


def linear(state: dict, name: str, x):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def norm(state: dict, name: str, x):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def attended(state: dict, name: str, x, tokens):
    """The attention of a resampler's layer, from uniportrait/resampler.py."""
    x, own = norm(state, f"{name}.norm1", x), norm(state, f"{name}.norm2", tokens)
    k, v = linear(state, f"{name}.to_kv", torch.cat([x, own], 1)).chunk(2, -1)
    q, k, v = (y.unflatten(-1, (-1, 64)).transpose(1, 2) for y in (linear(state, f"{name}.to_q", own), k, v))
    weights = (q * 64**-0.25 @ (k * 64**-0.25).transpose(-2, -1)).softmax(-1)
    return linear(state, f"{name}.to_out", (weights @ v).transpose(1, 2).flatten(2))


def fed(state: dict, name: str, tokens):
    return linear(state, f"{name}.3", F.gelu(linear(state, f"{name}.1", norm(state, f"{name}.0", tokens))))


def uniportrait_tokens(state: dict, identity, structure, scale: float):
    """Tokens as uniportrait/resampler.py has them."""
    identity, structure = (
        linear(state, f"{name}.2", F.gelu(linear(state, f"{name}.0", x)))
        for name, x in (("proj_id", identity), ("proj_clip", structure))
    )
    tokens = state["latents"].repeat(len(identity), 1, 1)
    for i in range(6):
        tokens = attended(state, f"layers.{i}.0", identity, tokens) + tokens
        tokens = scale * attended(state, f"layers.{i}.1", structure, tokens) + tokens
        tokens = fed(state, f"layers.{i}.2", tokens) + tokens
    return norm(state, "norm_out", linear(state, "proj_out", tokens))


def consistentid_tokens(state: dict, embedding, states):
    """Tokens as functions.py's ProjPlusModel has them without its shortcut."""
    tokens = linear(state, "proj.2", F.gelu(linear(state, "proj.0", embedding)))
    tokens = norm(state, "norm", tokens.unflatten(-1, (4, -1)))
    inside = {key.removeprefix("perceiver_resampler."): x for key, x in state.items() if key.startswith("perceiver")}
    states = linear(inside, "proj_in", states)
    for i in range(4):
        tokens = attended(inside, f"layers.{i}.0", states, tokens) + tokens
        tokens = fed(inside, f"layers.{i}.1", tokens) + tokens
    return norm(inside, "norm_out", linear(inside, "proj_out", tokens))


def curricular_face_shapes() -> dict[str, tuple[int, ...]]:
    """The file's tensors as TFace's model_irse.py names them."""

    def norms(name: str, width: int) -> dict:
        kinds = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{kind}": (width,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}

    found = {"input_layer.0.weight": (64, 3, 3, 3), "input_layer.2.weight": (64,)} | norms("input_layer.1", 64)
    for number, (into, out, _) in enumerate(curricular_face_units()):
        name = f"body.{number}"
        if into != out:
            found |= {f"{name}.shortcut_layer.0.weight": (out, into, 1, 1)} | norms(f"{name}.shortcut_layer.1", out)
        found |= norms(f"{name}.res_layer.0", into)
        found |= norms(f"{name}.res_layer.2", out) | norms(f"{name}.res_layer.5", out)
        found |= {
            f"{name}.res_layer.1.weight": (out, into, 3, 3),
            f"{name}.res_layer.3.weight": (out,),
            f"{name}.res_layer.4.weight": (out, out, 3, 3),
        }
    return found | norms("output_layer.0", 512) | {"output_layer.3.weight": (512, 512 * 49)}


def curricular_face_units():
    """(channels in, channels out, whether it is the last of its stage) of each unit."""
    return [
        (first if unit == 0 else out, out, unit == count - 1) for first, out, count in STAGES for unit in range(count)
    ]


def curricular_face_maps(state: dict, x):
    """The maps of model_irse.py with `return_mid_feats`."""

    def batch_norm(name, x):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    x = batch_norm("input_layer.1", F.conv2d(x, state["input_layer.0.weight"], padding=1))
    x, maps, stride = F.prelu(x, state["input_layer.2.weight"]), [], 2
    for number, (_, _, last) in enumerate(curricular_face_units()):
        name = f"body.{number}"
        short = x[..., ::stride, ::stride]
        if f"{name}.shortcut_layer.0.weight" in state:
            short = batch_norm(f"{name}.shortcut_layer.1", F.conv2d(short, state[f"{name}.shortcut_layer.0.weight"]))
        y = F.conv2d(batch_norm(f"{name}.res_layer.0", x), state[f"{name}.res_layer.1.weight"], padding=1)
        y = F.prelu(batch_norm(f"{name}.res_layer.2", y), state[f"{name}.res_layer.3.weight"])
        y = F.conv2d(y, state[f"{name}.res_layer.4.weight"], stride=stride, padding=1)
        x, stride = short + batch_norm(f"{name}.res_layer.5", y), 2 if last else 1
        if last:
            maps.append(x)
    return maps
