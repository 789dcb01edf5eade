"""Does the triplet show held-out people on a DiT? A Flux of about 10 M parameters, trained on FaceWorld."""
