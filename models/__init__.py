"""Settings to `keras.Model` giving logits. Knows no data and no training."""
