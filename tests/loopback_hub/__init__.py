"""A small, strict stand-in for the Hugging Face Hub on this machine, for tests without a network."""
