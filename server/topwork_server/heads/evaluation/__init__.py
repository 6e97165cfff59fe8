"""Evaluation of heads on held-out rows: metrics with intervals, calibration, errors and the report."""
