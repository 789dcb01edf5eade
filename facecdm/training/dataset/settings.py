"""Settings for preparing a data set."""

from dataclasses import dataclass

from ...errors import FaceCDMError

FRAMINGS = ("whole", "portrait")
SEVERAL = ("largest", "drop")
NO_CAPTION = ("empty", "drop")
POSES = ("none", "five points", "openpose")
IDENTITIES = ("auto", "cluster", "one person")


@dataclass(frozen=True)
class Settings:
    """How pictures become rows.

    resolution      in pixels; a bucket's area is at most resolution² (512: SD1.5, 1024: SDXL)
    step            the sides of buckets are multiples of it
    aspect          largest ratio of a bucket's longer to its shorter side; 1: one square bucket
    framing         "whole" picture, or "portrait" around the face
    several         in a picture with several faces, use the "largest", or "drop" the picture
    min_score       smallest score of the detector, 0…1
    min_face        smallest ratio of the face's width to the shorter side of the bucket
    min_picture     smallest ratio of the picture's shorter side to the bucket's; smaller ones would be enlarged
    no_caption      for a picture without a caption, use the "empty" one, or "drop" the picture
    identities      "auto": from the source (sub-folders, meta.jsonl), else by clustering; "cluster"; "one person"
    same_person     smallest mean cosine at which clustered faces are one person
    pose            picture for the pose ControlNet, drawn when a batch is loaded: "none", the "five points" of
                    InstantID, or "openpose" with eyes, nose and, with landmarks, the face
    augmented       number of variations made of a person's only photo, as its references
    detection_size  size, in pixels, to which pictures are scaled for the detector
    """

    resolution: int = 512
    step: int = 64
    aspect: float = 2.0
    framing: str = "whole"
    several: str = "largest"
    min_score: float = 0.5
    min_face: float = 0.08
    min_picture: float = 0.5
    no_caption: str = "empty"
    identities: str = "auto"
    same_person: float = 0.4
    pose: str = "none"
    augmented: int = 4
    detection_size: int = 640

    def __post_init__(self) -> None:
        for name, known in (
            ("framing", FRAMINGS),
            ("several", SEVERAL),
            ("no_caption", NO_CAPTION),
            ("identities", IDENTITIES),
            ("pose", POSES),
        ):
            if getattr(self, name) not in known:
                raise FaceCDMError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")
        if self.step < 8 or self.step % 8 or not self.step <= self.resolution <= 8192 or self.aspect < 1:
            raise FaceCDMError(
                f"resolution {self.resolution}, step {self.step}, aspect {self.aspect}: step must be a "
                "multiple of 8, resolution between step and 8192, aspect 1 or more"
            )
        if not 0 <= self.augmented <= 64:
            raise FaceCDMError(f"augmented is {self.augmented}; choose 0 … 64")
