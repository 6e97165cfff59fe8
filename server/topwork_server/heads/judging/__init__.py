"""How a head is judged: figures with intervals, calibration, what it got wrong. `judge.py` is the door."""
