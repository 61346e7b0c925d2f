"""R-Zero on a pretrained language model, on two cores."""
