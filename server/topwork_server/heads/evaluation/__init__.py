"""How a head is judged: figures with intervals, calibration, what it got wrong. `evaluate.py` is the door."""
