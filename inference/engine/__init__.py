"""What every task gets for free: the ladder, loop, evaluation, calibration, checkpoints, the job's whole way."""
