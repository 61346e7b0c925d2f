"""Property tests without a time limit of their own: the first call of math-verify takes a second."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
