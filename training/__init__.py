"""Model and data to a trained model, private if asked."""
