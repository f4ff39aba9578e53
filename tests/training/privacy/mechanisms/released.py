"""The noise that steps release, and the fresh draws it is made of."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from training.privacy.mechanisms import Mechanism
from training.privacy.noise import ReplayableGaussianSumQuery, gaussian_noise
from training.privacy.noise_memory import NoiseMemory
from training.randomness import Randomness

ROOT = Randomness.from_seed(5)
STDDEV = 1.5


def released_noise(
    mechanism: Mechanism, steps: int, size: int, *, jit_compile: bool = False
) -> np.ndarray:
    """What is added to the sums of `steps` steps, float32 (steps, size), at deviation STDDEV."""
    query = ReplayableGaussianSumQuery(1.0, STDDEV)
    memory = None
    if mechanism.slots:
        memory = NoiseMemory(
            [(size,)],
            mechanism.slots,
            STDDEV,
            tf.distribute.get_strategy(),
            jit_compile=jit_compile,
        )

    @tf.function(jit_compile=jit_compile)
    def release(seeds: tf.Tensor, coefficients: tf.Tensor, slot: tf.Tensor) -> tf.Tensor:
        if memory is None:
            state = query.seeded_global_state(seeds, coefficients)
        else:
            state = query.given_global_state(memory.noises(slot))
        return query.get_noised_result([tf.zeros([size])], state)[0][0]

    noises = []
    for step in range(steps):
        draws = mechanism.draws(step, ROOT, 1)
        if memory is not None:
            memory.advance(draws)
        noise = release(draws.seeds, draws.coefficients, tf.constant(draws.slot))
        noises.append(noise.numpy())
    return np.stack(noises)


def fresh_draws(steps: int, size: int, *, jit_compile: bool = False) -> np.ndarray:
    """The draws that the steps' own seeds name, float32 (steps, size), at deviation STDDEV.

    XLA may draw other numbers from the same seed.
    """

    @tf.function(jit_compile=jit_compile)
    def draw(seed: tf.Tensor) -> tf.Tensor:
        return gaussian_noise(tf.TensorShape([size]), tf.constant(STDDEV), seed)

    seeds = [ROOT.stateless_seeds("noise", step, 1)[0] for step in range(steps)]
    return np.stack([draw(tf.constant(seed)).numpy() for seed in seeds])


def assert_covariance(noises: np.ndarray, planned: np.ndarray) -> None:
    """Over its coordinates, the noise of the steps has the covariance STDDEV^2 * planned."""
    found = np.cov(noises, bias=True) / STDDEV**2
    # An entry's standard error is sqrt((v_ii v_jj + v_ij^2) / coordinates); five of them.
    variances = np.diag(planned)
    errors = np.sqrt((np.outer(variances, variances) + planned**2) / noises.shape[1])
    assert np.abs((found - planned) / errors).max() < 5
