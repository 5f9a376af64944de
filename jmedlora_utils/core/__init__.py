"""Folders, records, presets, errors, text, statistics and notebook start-up. Imports nothing else of the package."""
