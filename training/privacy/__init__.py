"""The private engine: sampling, clipping, noise and accounting as one object."""
