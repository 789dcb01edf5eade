"""The configurations of `facecdm train`: the adapter and its LoRA are trained twice."""

import yaml

from .files import lora_beside_path
from .plan import LORA_RANK, Plan

COMMON = {
    "rank": 0,
    "lora_rank": LORA_RANK,
    "lora_layers": "all",
    "precision": "bf16",
    "gate_rate": 1.0,
    "min_snr": 0,
    "ema": 0.99,
    "save_every": 50,
    "drop_image": 0.5,
    "drop_text": 0.1,
    "drop_face": 0.1,
    "face_region": 0.2,
    "noise_low": 100,
    "noise_high": 980,
    "noise_share": 0.95,
    "train": ["projectors", "keys_values", "gates", "lora"],
}

# The identity loss on images sampled from noise; the adapter finds the face's location in half of the batches.
SAMPLED = {
    "identity": 0.3,
    "identity_toward": "person",
    "identity_ramp": 0,
    "localisation": 0.0,
    "alignment": 0.0,
    "find_location": 0.5,
    "few_steps": 4,
    "few_steps_from": "noise",
    "few_steps_guidance": 4.0,
    "few_steps_learnt": 4,
}


def write(plan: Plan, name: str) -> None:
    """Write the configuration of a training: broad or drawn."""
    configuration = {"broad": broad, "drawn": drawn}[name](plan)
    (plan.run / f"{name}.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")


def configuration(plan: Plan, out: str, **more) -> dict:
    return {
        "base": "demo",
        "data": str(plan.run / "data"),
        "out": str(plan.run / out),
        "preset": "adapter",
        "recogniser": str(plan.recogniser),
        "held_out": 0.0,
        "threads": 1,
        **more,
    }


def broad(plan: Plan) -> dict:
    """Losses on one-step predictions; the location head is trained first."""
    lengths, begun = plan.lengths, plan.begun_adapter
    further = {"adapter": str(begun), "lora": str(lora_beside_path(begun))} if begun else {}
    broad_steps, identity_steps = (
        (lengths.broad_further, lengths.identity_further) if begun else (lengths.broad, lengths.identity)
    )
    every = COMMON | {"batch": lengths.batch, "warmup": 30, "linear_identity": 0.5}
    own = {"learning_rate": 1.0e-3, "face_window": 0.9}
    identity = {
        "identity": 0.1,
        "identity_below": 400,
        "identity_every": 4,
        "identity_ramp": 0,
        "localisation": 0.0,
    }
    return configuration(
        plan,
        "broad",
        sizes={
            "face_tokens": 1024,
            "face_rank": 80,
            "face_content": 40,
            "image_tokens": 4,
            "image_layers": 1,
            "interplay": False,
        },
        all=every | {"drop_pose": 0.1},
        **further,
        stages={
            "broad": own | {"steps": broad_steps, "schedule": "constant", "location_steps": lengths.location},
            "identity": own | identity | {"steps": identity_steps, "schedule": "linear"},
            "fine": {
                "steps": lengths.fine,
                "learning_rate": 1.0e-4,
                "noise_low": 0,
                "noise_high": 1000,
                "noise_share": 0.0,
                "linear_identity": 0.0,
                "identity": 0.0,
                "alignment": 0.0,
                "background": 0.0,
            },
        },
    )


def drawn(plan: Plan) -> dict:
    """The identity loss on sampled images, and at the end whole pictures with a background loss."""
    lengths, begun = plan.lengths, plan.run / "broad" / "adapter.safetensors"
    own = {"batch": min(24, lengths.batch), "warmup": 10, "drop_pose": 0.05, "linear_identity": 0.5}
    return configuration(
        plan,
        "drawn",
        adapter=str(begun),
        lora=str(lora_beside_path(begun)),
        all=COMMON | SAMPLED | own,
        stages={
            "broad": {"steps": 0},
            "identity": {
                "steps": lengths.drawn,
                "learning_rate": 6.0e-4,
                "schedule": "constant",
                "face_window": 0.95,
            },
            "fine": {
                "steps": lengths.drawn_fine,
                "learning_rate": 5.0e-4,
                "schedule": "linear",
                "noise_high": 980,
                "noise_share": 0.95,
                "face_window": 0.25,
                "face_region": 0.0,
                "background": 2.0,
                "alignment_every": 1,
                "identity_every": 2,
            },
        },
    )
