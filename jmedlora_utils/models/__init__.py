"""Base models: registry, origins, loading, tiny bases, memory and planner. May import core and data."""
