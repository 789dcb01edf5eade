"""Several references: mean, side by side, weighted, one for each frame of a video."""

from dataclasses import replace

import pytest
import torch
from published_nodes import ARCFACE, person
from twins import conditioning, predict


def test_mean_and_side_by_side_with_weights(in_comfy, load, apply, make_faces, noise):
    adapter, three = load("faceid"), make_faces(3, recogniser=ARCFACE)
    kinds = {kind: noise(apply(adapter, faces=three, references=kind)) for kind in ("mean", "side by side")}
    assert not kinds["mean"].equal(kinds["side by side"])
    weighted = {
        kind: apply(adapter, faces=three, references=kind, options={"reference_weights": "1, 0, 0"}) for kind in kinds
    }
    first = in_comfy.module("facecdm.faces.value").Faces(three.faces[:1], ARCFACE)
    torch.testing.assert_close(noise(weighted["mean"]), noise(apply(adapter, faces=first)), rtol=0, atol=1e-4)
    assert not noise(weighted["side by side"]).equal(kinds["side by side"])
    even = apply(adapter, faces=three, references="side by side", options={"reference_weights": "1, 1, 1"})
    assert noise(even).equal(kinds["side by side"])


def test_one_weight_per_reference(errors, load, apply, make_faces):
    for kind in ("mean", "side by side"):
        with pytest.raises(errors.FaceCDMError, match="reference_weights has 2 numbers for 3 references"):
            apply(
                load("faceid"),
                faces=make_faces(3, recogniser=ARCFACE),
                references=kind,
                options={"reference_weights": "1, 2"},
            )


def test_weights_may_sum_to_zero_side_by_side(errors, load, apply, make_faces, noise):
    adapter, two = load("faceid"), make_faces(2, recogniser=ARCFACE)
    rest = {"lora_strength": 0.0}
    away = noise(apply(adapter, faces=two, references="side by side", options=rest | {"reference_weights": "1, -1"}))
    both = noise(apply(adapter, faces=two, references="side by side", options=rest))
    assert torch.isfinite(away).all() and not away.equal(both)
    for weights in ("1, -1", "0, 0", "0.3, -0.3"):
        with pytest.raises(errors.FaceCDMError, match="reference_weights sum to 0, and a mean .* 'side by side'"):
            apply(adapter, faces=two, options={"reference_weights": weights})


def test_one_reference_with_a_weight(errors, load, apply, noise):
    adapter, rest = load("faceid"), {"lora_strength": 0.0}
    half = apply(adapter, references="side by side", options=rest | {"reference_weights": "0.5"})
    torch.testing.assert_close(noise(half), noise(apply(adapter, face_strength=0.5, options=rest)))
    with pytest.raises(errors.FaceCDMError, match="has 2 numbers for 1 reference:"):
        apply(adapter, options={"reference_weights": "1, 2"})


def test_weights_of_three_faces_do_not_apply_to_one_picture(in_comfy, load, apply, make_faces):
    both, _ = in_comfy.run("FaceCDMCombineAdapters", adapter=load("faceid"), other=load("ip-adapter-plus"))
    shown = person(
        in_comfy,
        apply(
            both,
            faces=make_faces(3, recogniser=ARCFACE),
            references="side by side",
            options={"reference_weights": "1, 2, 3"},
        ),
    ).settings
    assert shown["face"].weights == (1, 2, 3) and not shown["image"].weights


def test_one_reference_for_each_picture_of_a_batch(in_comfy, load, apply, make_faces):
    """Frames of a video: each row of the batch, in both halves of CFG, equals a run of its own; the last stays."""
    adapter, two = load("faceid"), make_faces(2, recogniser=ARCFACE)
    value = in_comfy.module("facecdm.faces.value")
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 4, 8, 8, generator=generator) * 2
    prompts = [conditioning(torch.randn(1, 77, 96, generator=generator)) for _ in range(2)]
    together = predict(apply(adapter, faces=two, references="one per picture"), x, 2.0, *prompts, cfg=3.0)
    for row, reference in enumerate((0, 1, 1)):
        alone = apply(adapter, faces=value.Faces((two[reference],), ARCFACE))
        torch.testing.assert_close(
            together[row : row + 1], predict(alone, x[row : row + 1], 2.0, *prompts, cfg=3.0), rtol=0, atol=1e-4
        )


def test_a_weight_for_each_frame(load, apply, faces):
    """One face that fades in over three frames."""
    adapter, none = load("faceid"), {"lora_strength": 0.0}
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(3, 4, 8, 8, generator=generator) * 2
    prompts = [conditioning(torch.randn(1, 77, 96, generator=generator)) for _ in range(2)]
    fading = apply(adapter, references="one per picture", options=none | {"reference_weights": "0, 0.5, 1"})
    together = predict(fading, x, 2.0, *prompts, cfg=3.0)
    for row, strength in enumerate((0.0, 0.5, 1.0)):
        alone = apply(adapter, face_strength=strength, options=none)
        torch.testing.assert_close(
            together[row : row + 1], predict(alone, x[row : row + 1], 2.0, *prompts, cfg=3.0), rtol=0, atol=1e-4
        )


@pytest.fixture
def frames(in_comfy, make_faces):
    """FACES with a face in each of the pictures `numbers` of a batch, as wide as `widths`."""
    value = in_comfy.module("facecdm.faces.value")

    def frames(numbers, widths=None, pictures=0):
        faces = make_faces(len(numbers), recogniser=ARCFACE)
        return value.Faces(
            tuple(
                replace(face, image_index=number, box=torch.tensor([0.0, 0, width, 9]))
                for face, number, width in zip(faces, numbers, widths or [9] * len(numbers))
            ),
            ARCFACE,
            pictures or numbers[-1] + 1,
        )

    return frames


def test_each_frame_gets_a_face_of_its_own_picture(in_comfy, load, apply, frames):
    """Picture 1 shows two faces (choice "all"), picture 2 none."""
    given = frames((0, 1, 1, 3), widths=(9, 8, 5, 9))
    shown = person(in_comfy, apply(load("faceid"), faces=given, references="one per picture")).face.embedding
    torch.testing.assert_close(shown, given.normed[[0, 1, 1, 3]])


def test_frames_without_a_face_keep_the_one_before(in_comfy, make_faces, frames):
    one_per_image = in_comfy.module("facecdm.adapter.references").one_per_image
    assert [face.image_index for face in one_per_image(frames((1, 2, 5), pictures=8))] == [1, 1, 2, 2, 2, 5, 5, 5]
    both = frames((2, 2), widths=(5, 9), pictures=4)
    assert list(one_per_image(both)) == [both[1]] * 4, "two faces in the only picture that has any: the larger one"


def test_photos_of_several_nodes_are_references_in_their_order(in_comfy, frames):
    """Two nodes with the indices [0 | 0, 1]: three references, not the two pictures of one batch."""
    one_per_image = in_comfy.module("facecdm.adapter.references").one_per_image
    combine, weighted = (getattr(in_comfy.module("facecdm.faces.combine"), name) for name in ("combine", "Weighted"))
    first, second = frames((0,)), frames((0, 1))
    photos = combine([weighted(first), weighted(second)], "concatenate")
    assert one_per_image(photos) is photos and len(photos) == 3
    assert one_per_image(first) is first
    assert combine([weighted(first, 0.0), weighted(second)], "concatenate").pictures == 2
