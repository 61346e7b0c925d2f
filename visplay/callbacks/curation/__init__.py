"""From images to the questions that are learned from: asking, votes, admission gates, and a survey before training."""
