"""Votes on one and on two views, and which questions they admit."""
