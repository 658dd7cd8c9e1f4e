"""The registry: which models are served, under which names, by which workers, and how they fare."""
