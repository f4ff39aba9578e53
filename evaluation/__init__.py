"""Predictions to measurements to reports. Knows no training."""
