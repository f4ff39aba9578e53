"""Bytes to `tf.data` of fixed-shape batches. Knows no model."""
