"""A denoiser in front of a classifier that can only be queried, and its certificates."""
