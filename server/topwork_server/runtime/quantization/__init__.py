"""Static int8 of convolutional networks: calibrated on real pictures, judged on others."""
