"""The mathematics of the update: log-probabilities, advantages, losses, KL and corrections."""
