"""Prediction and target to a scalar."""
