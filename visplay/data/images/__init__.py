"""Images as bytes, files and cells of tables: decoded, hashed, found in directories."""
