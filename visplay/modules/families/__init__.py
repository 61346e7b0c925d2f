"""Model families, one a file: a subclass of ``VLM`` each."""
