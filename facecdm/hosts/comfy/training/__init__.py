"""Training on a loaded MODEL: denoiser, encoders, gradients."""
