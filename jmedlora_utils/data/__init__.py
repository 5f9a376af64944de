"""Examination questions and instruction records: sources, fetching, prompts, the invented world, one's own articles. May import core."""
