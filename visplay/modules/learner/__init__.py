"""GRPO: its settings, the batch, one step from rollout to update, and the check of engine against trainer."""
