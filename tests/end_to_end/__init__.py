"""A real server process, real bundled models, plain HTTP: what a user meets."""
