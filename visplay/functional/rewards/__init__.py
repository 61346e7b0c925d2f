"""Rewards of both roles, and what weighs them."""
