"""The weights of a policy: read, trained or frozen, adapted, placed and written."""
