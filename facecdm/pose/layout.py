"""Orders of key points: OpenPose's body, hands and face, InsightFace's landmarks, and the mapping between them.

Sides are the person's own ("right eye" is on the viewer's left), as in OpenPose. FIVE is InsightFace's order, which
begins on the viewer's left.
"""

BODY = (
    "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
    "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye",
    "right ear", "left ear",
)  # fmt: skip
FIVE = ("right eye", "left eye", "nose", "right corner of the mouth", "left corner of the mouth")
HAND_SIZE, FACE_SIZE, FIVE_SIZE, LANDMARKS_SIZE = 21, 70, 5, 106
BODY_SIZE = len(BODY)

# OpenPose's COCO limbs in drawing order, one colour each.
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
# Eighteen hues, 20° apart, from red to crimson: colour n is used for limb n and point n.
COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255),
    (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
# From the wrist to the tip of each finger: thumb 1–4, then 5–8, 9–12, 13–16, 17–20.
FINGERS = tuple((0 if joint % 4 == 0 else joint, joint + 1) for joint in range(20))

# InstantID's ControlNet: the colours of the five points; each is joined to the nose.
FIVE_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
FIVE_NOSE = 2

# The 70 points of a face: 68 of iBUG (jaw 0–16, brows 17–26, nose 27–35, eyes 36–47, mouth 48–67) and two pupils.
RIGHT_EYE, LEFT_EYE = tuple(range(36, 42)), tuple(range(42, 48))
FACE_NOSE_TIP, FACE_MOUTH = 30, (48, 54)
# Index of each of the 70 among the 106 landmarks of InsightFace's 2d106det.
FACE_OF_LANDMARKS = (
    1, 10, 12, 14, 16, 3, 5, 7, 0, 23, 21, 19, 32, 30, 28, 26, 17,
    43, 48, 49, 51, 50, 102, 103, 104, 105, 101,
    72, 73, 74, 86, 78, 79, 80, 85, 84,
    35, 41, 42, 39, 37, 36, 89, 95, 96, 93, 91, 90,
    52, 64, 63, 71, 67, 68, 61, 58, 59, 53, 56, 55, 65, 66, 62, 70, 69, 57, 60, 54,
    38, 88,
)  # fmt: skip

# Index of the mirrored point.
BODY_MIRROR = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
FIVE_MIRROR = (1, 0, 2, 4, 3)
FACE_MIRROR = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65, 69, 68,
)  # fmt: skip
# The body's points that turn with the head, and the FIVE that they are computed from.
BODY_HEAD = (0, 14, 15, 16, 17)
BODY_OF_FIVE = {0: 2, 14: 0, 15: 1}
