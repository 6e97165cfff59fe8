"""How a head is judged: figures with intervals, calibration, what it got wrong. `heads/judge.py` is the door."""
