"""Vision-SR1 on the shapes world: whether a reward for descriptions makes a Reasoner look at the image."""
