"""Images of shards that no disk has room for."""
