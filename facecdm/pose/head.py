"""Head rotation: fit a generic 3-D face to the key points, and rotate the key points with it.

Axes: x to the viewer's right, y up, z towards the viewer. Angles are degrees, applied in the order yaw, pitch, roll:
yaw > 0 turns to the viewer's right, pitch > 0 down, roll > 0 counter-clockwise for the viewer.
"""

from dataclasses import dataclass

import numpy as np

from .generic_face import EARS, FACE, FIVE
from .layout import BODY_HEAD, BODY_OF_FIVE
from .value import VISIBLE, PosePerson

ROUNDS = 12  # Gauss–Newton iterations; it converges in about six


@dataclass(frozen=True)
class Angles:
    """Degrees; signs as in the module's docstring."""

    yaw: float
    pitch: float
    roll: float

    @property
    def matrix(self) -> np.ndarray:
        """[3, 3]: roll · pitch · yaw."""
        y, p, r = np.radians([self.yaw, self.pitch, self.roll])
        about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
        about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
        return about_z @ about_x @ about_y

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Angles":
        """The inverse of `matrix`, for pitch within ±90°."""
        yaw = np.arctan2(-matrix[2, 0], matrix[2, 2])
        pitch = np.arcsin(np.clip(matrix[2, 1], -1, 1))
        roll = np.arctan2(-matrix[0, 1], matrix[1, 1])
        return cls(*(float(angle) for angle in np.degrees([yaw, pitch, roll])))


@dataclass(frozen=True, eq=False)
class HeadFit:
    """A fit of the generic face: pixel = scale · (rotation · point)[x, −y] + shift (weak perspective).

    rotation  [3, 3]
    scale     pixels per distance between the eyes
    shift     [2] pixels: position of the generic face's origin
    error     root mean square distance of the points, in distances between the eyes
    """

    rotation: np.ndarray
    scale: float
    shift: np.ndarray
    error: float

    @property
    def angles(self) -> Angles:
        return Angles.of(self.rotation)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 3] of the generic face → pixels [N, 2]."""
        return self.scale * (points @ self.rotation.T)[:, :2] * (1, -1) + self.shift

    def turned(self, points: np.ndarray, model: np.ndarray, by: Angles) -> np.ndarray:
        """Turn the head further and move `points` (pixels [N, 2]); `model` [N, 3] are the generic face's points."""
        flat = (points - self.shift) * (1, -1) / self.scale
        depth = (model @ self.rotation.T)[:, 2:]
        now = self.angles
        then = Angles(now.yaw + by.yaw, now.pitch + by.pitch, now.roll + by.roll).matrix
        moved = np.hstack([flat, depth]) @ (then @ self.rotation.T).T
        return self.scale * moved[:, :2] * (1, -1) + self.shift


def fit_head(person: PosePerson) -> HeadFit | None:
    """Fit the generic face to the 70 points, else to the five. None with fewer than 4 visible points."""
    for points, model in ((person.face, FACE), (person.five, FIVE)):
        visible = points[:, 2] >= VISIBLE
        if visible.sum() >= 4:
            return _fit(points[visible, :2].astype(float), model[visible])
    return None


def _fit(points: np.ndarray, model: np.ndarray) -> HeadFit | None:
    """Gauss–Newton fit of rotation, scale and shift, from a frontal start. None if all points coincide."""
    target = points * (1, -1)
    spread = np.sqrt(((target - target.mean(0)) ** 2).sum())
    if spread < 1e-6:
        return None
    rotation = _upright(target, model)
    flat = model @ rotation.T
    scale = spread / np.sqrt(((flat[:, :2] - flat[:, :2].mean(0)) ** 2).sum())
    shift = target.mean(0) - scale * flat[:, :2].mean(0)
    for _ in range(ROUNDS):
        q = model @ rotation.T
        residual = (target - (scale * q[:, :2] + shift)).ravel()
        zero, one = np.zeros(len(q)), np.ones(len(q))
        by_x = np.stack([zero * q[:, 0], -scale * q[:, 2]], 1), np.stack([scale * q[:, 2], zero], 1)
        columns = (
            *by_x,
            np.stack([-scale * q[:, 1], scale * q[:, 0]], 1),
            q[:, :2],
            np.stack([one, zero], 1),
            np.stack([zero, one], 1),
        )
        jacobian = np.stack([column.ravel() for column in columns], 1)
        size = np.linalg.norm(jacobian, axis=0) + 1e-9  # equal column lengths make the damping uniform
        step = (
            np.linalg.lstsq(
                np.vstack([jacobian / size, 0.03 * np.eye(6)]), np.append(residual, np.zeros(6)), rcond=None
            )[0]
            / size
        )
        rotation = _rotate(step[:3]) @ rotation
        scale, shift = max(scale + step[3], 1e-3 * spread), shift + step[4:]
    fit = HeadFit(rotation, float(scale), shift * (1, -1), 0.0)
    error = np.sqrt(((fit.project(model) - points) ** 2).sum(1).mean()) / fit.scale
    return HeadFit(fit.rotation, fit.scale, fit.shift, float(error))


def _upright(target: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Initial rotation: the one in the picture plane that fits the frontal face best (2-D Procrustes)."""
    a, b = model[:, :2] - model[:, :2].mean(0), target - target.mean(0)
    angle = np.arctan2((a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), (a * b).sum())
    return Angles(0, 0, float(np.degrees(angle))).matrix


def _rotate(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix about `vector` by its length in radians (Rodrigues)."""
    angle = np.linalg.norm(vector)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def turn_head(person: PosePerson, by: Angles) -> PosePerson:
    """Turn a person's head further. Body, hands and neck stay. No effect without a face."""
    from dataclasses import replace

    fit = fit_head(person)
    if fit is None:
        return person

    def turn(points: np.ndarray, model: np.ndarray) -> np.ndarray:
        moved = np.hstack([fit.turned(points[:, :2].astype(float), model, by), points[:, 2:]])
        return np.where(points[:, 2:] > 0, moved, points)

    body = person.body.copy()
    body[list(BODY_HEAD)] = turn(body[list(BODY_HEAD)], body_model())
    return replace(person, body=body, face=turn(person.face, FACE), five=turn(person.five, FIVE))


def body_model() -> np.ndarray:
    """[5, 3]: the points BODY_HEAD on the generic face."""
    known = {point: FIVE[five] for point, five in BODY_OF_FIVE.items()} | dict(zip((16, 17), EARS, strict=True))
    return np.stack([known[point] for point in BODY_HEAD])
