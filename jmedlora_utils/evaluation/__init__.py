"""Asking a model examination questions and scoring what it answers. May import core, data, models and tuning."""
