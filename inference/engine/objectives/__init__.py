"""What is learned: what a model's outputs mean, how they are judged, calibrated and answered."""
